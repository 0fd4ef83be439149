"""What is sent, when it is tried again and which delivery is next. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from agents.incident_lines import facts
from schemas.codec import encode, iso
from schemas.events import Alert, RetrainRequest

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 3600.0
GIVE_UP_AFTER = timedelta(hours=24)
"""A delivery is abandoned when it failed for so long; the topic `alerts` remains the truth."""
STALE_AFTER = timedelta(hours=24)
"""Alerts that lay in the topic for longer are logged and not sent: a new installation does not replay the past."""

Channel = Literal["webhook", "apprise", "alertmanager"]


@dataclass(frozen=True)
class Target:
    """Where messages go. `url` holds secrets and is never logged or stored; `id` and `label` are."""

    url: str
    channel: Channel

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.channel} {self.url}".encode()).hexdigest()[:32]

    @property
    def label(self) -> str:
        """Scheme and host: what a log may show."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://…" if self.channel == "apprise" else f"{parts.scheme}://{parts.hostname or '…'}"

    def __repr__(self) -> str:
        return f"Target({self.label!r})"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a successor of a model that is trained elsewhere, with its newest version there and here."""

    request: RetrainRequest
    version: str | None
    number: int | None


class Waiting(Protocol):
    """What `due` needs of a pending delivery."""

    @property
    def incident_id(self) -> str: ...
    @property
    def next_at(self) -> datetime: ...
    @property
    def lease_until(self) -> datetime | None: ...


W = TypeVar("W", bound=Waiting)


def due(pending: Iterable[W], now: datetime) -> list[W]:
    """Deliveries to try at `now`, of those pending for one target in the order they were made.

    Notes
    -----
    Messages of one incident go out in order: while one waits for its next attempt, later ones wait behind it, and other
    incidents do not.
    """
    seen: set[str] = set()
    chosen: list[W] = []
    for delivery in pending:
        if delivery.incident_id in seen:
            continue
        seen.add(delivery.incident_id)
        leased = delivery.lease_until is not None and delivery.lease_until > now
        if delivery.next_at <= now and not leased:
            chosen.append(delivery)
    return chosen


def pause_s(attempts: int, event_id: str) -> float:
    """Seconds until the next attempt after `attempts` failures: doubling, spread by up to a fifth.

    The spread is derived from the event, so that a target that comes back is not met by everything at once.
    """
    spread = int(hashlib.sha256(f"{event_id} {attempts}".encode()).hexdigest()[:8], 16) / 0xFFFF_FFFF
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30)) * (0.8 + 0.4 * spread)


def webhook_body(alert: Alert, at: datetime) -> str:
    """Standard Webhooks payload: type, timestamp, data."""
    return encode({"type": f"alert.{alert.status}", "timestamp": iso(at), "data": alert}).decode()


def retrain_body(wanted: Wanted, at: datetime) -> str:
    """As `webhook_body`, of a request for a successor to whoever trains the model."""
    asked = msgspec.to_builtins(wanted.request)
    kept = ("request_id", "model", "trigger", "reason", "incident_id", "requested_by")
    data = {name: asked[name] for name in kept} | {
        "as_of": iso(wanted.request.as_of),
        "changed_at": iso(changed) if (changed := wanted.request.changed_at) is not None else None,
        "version": wanted.version,
        "version_number": wanted.number,
    }
    return encode({"type": "retrain.requested", "timestamp": iso(at), "data": data}).decode()


def retrain_message(wanted: Wanted) -> tuple[str, str]:
    """Title and text for people."""
    request = wanted.request
    of = f" (version {wanted.version})" if wanted.version else ""
    text = f"{request.reason}\n\nAsked for at {iso(request.as_of)}, trigger {request.trigger}."
    text += " The model is trained elsewhere: a new version answers this with its first prediction."
    return f"[retrain] {request.model}{of}: a successor is asked for", text


def message(alert: Alert) -> tuple[str, str]:
    """Title and text for people."""
    link = next(iter(alert.links.values()), "")
    lines = "".join(f"\n{line}" for line in facts(alert.evidence))
    text = f"{alert.explanation}{lines}\n\nIncident {alert.incident_id}, opened at {iso(alert.opened_at)}"
    return f"[{alert.severity} {alert.status}] {alert.title}", f"{text}\n{link}".strip()
