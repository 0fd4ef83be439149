"""Delivery rows: made in the alert's transaction, worked off by one thread for each target."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session, sessionmaker

from agents.database.engine import Sessions
from agents.notifying.logic import GIVE_UP_AFTER, Target, Wanted, due, pause_s
from agents.notifying.tables import DeliveryRow
from agents.notifying.webhook import DeliveryError
from schemas.codec import decode, encode
from schemas.errors import DatabaseUnavailableError
from schemas.events import Alert

LEASE = timedelta(seconds=60)
POLL_S = 0.25
KEEP = timedelta(days=30)
_BATCH = 100

RETRAIN: Final = "retrain"

News = Alert | Wanted
Send = Callable[[Target, str, News, datetime], None]
"""Sends one message (with its event id) to a target; raises `DeliveryError` or else where it did not arrive."""

log = logging.getLogger("driftline.notifying")


def plan(session: Session, targets: Iterable[Target], event_id: str, news: News, now: datetime) -> None:
    """Add a delivery for each target, in the caller's transaction."""
    text = encode(news).decode()
    # Messages of one incident go out in order; a request for a successor waits for no alert.
    if isinstance(news, Wanted):
        kind, about = RETRAIN, f"{RETRAIN}-{news.request.request_id}"[:64]
    else:
        kind, about = "alert", news.incident_id
    for target in targets:
        session.add(
            DeliveryRow(
                event_id=event_id,
                incident_id=about,
                target=target.id,
                label=target.label,
                channel=target.channel,
                alert=text,
                kind=kind,
                created_at=now,
                next_at=now,
            )
        )


class Courier:
    """Works off the deliveries of one target in a thread of its own, so that a target that hangs delays nobody else.

    Parameters
    ----------
    target : Target
    send : callable
    sessions : sessionmaker
    readers : sessionmaker
        Read-only sessions, for the look whether anything waits.
    clock : callable
        Aware system time.

    Notes
    -----
    At least once: a crash between the receiver's answer and the row's update sends the same message id again.
    """

    def __init__(
        self,
        target: Target,
        send: Send,
        sessions: Sessions,
        readers: Sessions,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.target = target
        self._send = send
        self._sessions: sessionmaker[Session] = sessions
        self._readers: sessionmaker[Session] = readers
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"courier {target.label}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the attempt that runs, or leave it behind after `timeout_s` (its lease ends by itself)."""
        self._stop.set()
        self._thread.join(timeout_s)

    def work(self) -> int:
        """Try everything that is due; returns how many attempts were made."""
        with self._readers() as session:
            waiting = select(DeliveryRow).where(DeliveryRow.target == self.target.id, DeliveryRow.status == "pending")
            pending = session.scalars(waiting.order_by(DeliveryRow.id).limit(_BATCH)).all()
        chosen = due(pending, self._clock())
        for row in chosen:
            if self._stop.is_set():
                break
            if self._lease(row):
                self._attempt(row)
        return len(chosen)

    def prune(self) -> None:
        """Forget what was delivered or abandoned long ago."""
        with self._sessions.begin() as session:
            session.execute(
                delete(DeliveryRow).where(
                    DeliveryRow.target == self.target.id,
                    DeliveryRow.status != "pending",
                    DeliveryRow.created_at < self._clock() - KEEP,
                )
            )

    def _lease(self, row: DeliveryRow) -> bool:
        now = self._clock()
        with self._sessions.begin() as session:
            taken = session.execute(
                update(DeliveryRow)
                .where(
                    DeliveryRow.id == row.id,
                    DeliveryRow.status == "pending",
                    DeliveryRow.attempts == row.attempts,
                    or_(DeliveryRow.lease_until.is_(None), DeliveryRow.lease_until <= now),
                )
                .values(lease_until=now + LEASE)
                .execution_options(synchronize_session=False)
            )
            return bool(getattr(taken, "rowcount", 0))

    def _attempt(self, row: DeliveryRow) -> None:
        error, final = "", False
        try:
            text = row.alert.encode()
            news: News = decode(text, Wanted) if row.kind == RETRAIN else decode(text, Alert)
            self._send(self.target, row.event_id, news, self._clock())
        except DeliveryError as failure:
            error, final = str(failure), failure.final
        except Exception as failure:  # noqa: BLE001  whatever a channel raises: not delivered
            error = f"{type(failure).__name__}: {failure}"[:300]
        now = self._clock()
        attempts = row.attempts + 1
        values: dict[str, object] = {"attempts": attempts, "lease_until": None, "error": error}
        if not error:
            values |= {"status": "delivered", "delivered_at": now}
        elif final or now - row.created_at >= GIVE_UP_AFTER:
            values["status"] = "abandoned"
            log.error("gave up on alert %s to %s: %s", row.event_id, self.target.label, error)
        else:
            values["next_at"] = now + timedelta(seconds=pause_s(attempts, row.event_id))
            log.warning("alert %s did not reach %s (attempt %d): %s", row.event_id, self.target.label, attempts, error)
        with self._sessions.begin() as session:
            session.execute(
                update(DeliveryRow)
                .where(DeliveryRow.id == row.id)
                .values(**values)
                .execution_options(synchronize_session=False)
            )

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.work()
            except DatabaseUnavailableError as error:
                log.warning("%s", error)
                self._stop.wait(5.0)
