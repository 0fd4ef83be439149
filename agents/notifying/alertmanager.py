"""Prometheus Alertmanager as a target: what is open is sent again and again, what ended with the time of its end.

An Alertmanager holds no messages but what fires now: it forgets whatever is not sent again. So there are no deliveries
and no retries here; every round tells everything, out of the incidents as they stand in the database.

References
----------
Alertmanager, alerts API: https://prometheus.io/docs/alerting/latest/alerts_api
"""

from __future__ import annotations

import logging
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from sqlalchemy import select

from agents.alerting.tables import IncidentRow
from agents.database.engine import Sessions
from agents.incident_lines import facts
from agents.notifying.addresses import Endpoint, parse_endpoint
from agents.notifying.logic import Target
from agents.notifying.webhook import exchange
from schemas.codec import iso
from schemas.errors import UnsafeSettingError

RESEND: Final = timedelta(seconds=60)
VALID: Final = 4 * RESEND
"""What fires ends by itself so long after it was last sent: if nobody is left to say that it is over."""
RESOLVED: Final = timedelta(minutes=15)
"""For so long the end of an alert is repeated."""
BATCH: Final = 64
AGAIN_S: Final = 10.0
ALERT_NAME: Final = "DriftlineIncident"
_WHERE: Final = "DRIFTLINE_ALERTMANAGER_URLS"
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})

log = logging.getLogger("driftline.notifying")


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that is open. `opened_at` is event time; `labels` are its identity there."""

    labels: dict[str, str]
    annotations: dict[str, str]
    opened_at: datetime


def open_of(row: IncidentRow) -> Open:
    """An incident in the words of an Alertmanager; labels hold no id, so that what comes back meets its silences."""
    named = {
        "alertname": ALERT_NAME,
        "model": row.model,
        "version": str(row.version) if row.version else "",
        "kind": row.kind,
        "subject": row.subject,
        "segment": row.segment,
        "severity": row.severity,
    }
    said = {
        "summary": row.title,
        "description": "\n".join([row.explanation, *facts(row.evidence)]),
        "incident_id": row.incident_id,
    }
    # An empty label is none.
    return Open(
        labels={name: value for name, value in named.items() if value}, annotations=said, opened_at=row.opened_at
    )


@dataclass
class Board:
    """What one Alertmanager was told, so that it learns what is over.

    Parameters
    ----------
    page : str
        Address that alerts link to; empty: none.
    """

    page: str = ""
    _firing: dict[tuple[tuple[str, str], ...], dict[str, Any]] = field(default_factory=dict)
    _ended: dict[tuple[tuple[str, str], ...], tuple[datetime, dict[str, Any]]] = field(default_factory=dict)

    def round(self, found: Iterable[Open], now: datetime) -> list[dict[str, Any]]:
        """Everything to send at `now` (aware, the system's clock): what fires, then what ended lately."""
        before, self._firing = self._firing, {}
        for incident in found:
            alert: dict[str, Any] = {
                "labels": incident.labels,
                "annotations": incident.annotations,
                # Event time may be ahead of the clock; an alert that begins later than it ends is refused.
                "startsAt": iso(min(incident.opened_at, now)),
                "endsAt": iso(now + VALID),
            }
            if self.page:
                alert["generatorURL"] = self.page
            self._firing[tuple(sorted(incident.labels.items()))] = alert
        for key, alert in before.items():
            if key not in self._firing:
                self._ended[key] = (now, {**alert, "endsAt": iso(now)})
        self._ended = {
            key: (at, alert)
            for key, (at, alert) in self._ended.items()
            if key not in self._firing and now - at < RESOLVED
        }
        return [*self._firing.values(), *(alert for _, alert in self._ended.values())]


class Credentials(msgspec.Struct, frozen=True):
    """What authorises a request; never shown."""

    header: str

    def __repr__(self) -> str:
        return "Credentials(…)"


def parse_target(url: str) -> tuple[Endpoint, Credentials | None]:
    """Where to post, and as whom (``https://user:password@host:9093/prefix``).

    Raises
    ------
    UnsafeSettingError
        No http(s) URL, or a password that would leave this machine unencrypted. The message shows no secret.

    Notes
    -----
    Unlike a webhook's, the host is one of the operator's own: private addresses and http are permitted.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in {"http", "https"} or not host:
        raise UnsafeSettingError("an Alertmanager's URL has no http(s) scheme or host", where=_WHERE)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    endpoint = parse_endpoint(bare, {host})
    path = parts.path.rstrip("/") + "/api/v2/alerts"
    endpoint = Endpoint(endpoint.scheme, endpoint.host, endpoint.port, path, endpoint.trusted)
    if parts.username is None:
        return endpoint, None
    if parts.scheme == "http" and host not in _LOCAL:
        raise UnsafeSettingError(f"the password for {host} would be sent unencrypted", where=_WHERE, remedy="use https")
    user, password = unquote(parts.username), unquote(parts.password or "")
    return endpoint, Credentials("Basic " + b64encode(f"{user}:{password}".encode()).decode())


class Teller:
    """Tells one Alertmanager, in a thread of its own: at once when something changed, else every `RESEND`.

    Parameters
    ----------
    target : Target
    readers : Sessions
        Read-only sessions.
    page : str
        Address that alerts link to.
    clock : callable
        Aware system time.

    Raises
    ------
    UnsafeSettingError
        As `parse_target`.

    Notes
    -----
    Several agents may tell the same Alertmanager: labels are the identity. After a restart, what ended meanwhile ends
    there by itself, `VALID` after it was last sent.
    """

    def __init__(
        self,
        target: Target,
        readers: Sessions,
        page: str = "",
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.target = target
        self._endpoint, self._credentials = parse_target(target.url)
        self._readers = readers
        self._board = Board(page)
        self._clock = clock
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._silent = False
        self._thread = threading.Thread(target=self._run, name=f"teller {target.label}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def changed(self) -> None:
        """An incident opened, changed or closed: tell it now."""
        self._changed.set()

    def stop(self, timeout_s: float) -> None:
        """End after the request that runs, or leave it behind after `timeout_s`."""
        self._stop.set()
        self._changed.set()
        self._thread.join(timeout_s)

    def tell(self) -> int:
        """Send everything once; returns how many alerts.

        Raises
        ------
        DeliveryError
            It did not arrive, or was refused.
        DatabaseUnavailableError
        """
        with self._readers() as session:
            query = select(IncidentRow).where(IncidentRow.status != "closed").order_by(IncidentRow.incident_id)
            found = [open_of(row) for row in session.scalars(query)]
        alerts = self._board.round(found, self._clock())
        for start in range(0, len(alerts), BATCH):
            self._post(alerts[start : start + BATCH])
        return len(alerts)

    def _post(self, alerts: Sequence[dict[str, Any]]) -> None:
        headers = [] if self._credentials is None else [("Authorization", self._credentials.header)]
        exchange(self._endpoint, headers, msgspec.json.encode(alerts))

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            pause = RESEND.total_seconds()
            try:
                self.tell()
            except Exception as error:  # noqa: BLE001  whatever it is: not told, and tried again
                pause = AGAIN_S
                if not self._silent:
                    log.warning(
                        "%s is not told what fires: %s; trying again every %g s", self.target.label, error, pause
                    )
                self._silent = True
                self._stop.wait(pause)
                continue
            if self._silent:
                log.info("%s is told again", self.target.label)
            self._silent = False
            self._changed.wait(pause)
