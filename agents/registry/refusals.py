"""What is not believed is in the audit: who was named, what was asked for, and why it was refused."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from agents.registry.ledger import Ledger
from schemas.codec import derived_id
from schemas.errors import DecodeError
from schemas.events import CommandRefused
from streams.kafka.records import Record


def tell_refusal(
    session: Session,
    now: datetime,
    record: Record,
    error: DecodeError,
    *,
    model: str,
    actor: str,
    command: str,
    command_id: str,
) -> None:
    """Audit that a record was refused; it commits with `session`.

    Parameters
    ----------
    now : datetime
        The system's clock, aware.
    command, command_id : str
        What the record asks for, and its id; neither is used up by a refusal.
    """
    ledger = Ledger(session, now)
    event = CommandRefused(
        event_id=derived_id("refused", record.topic, record.partition, record.offset),
        epoch=ledger.next_epoch,
        at=ledger.now,
        model=model[:256],
        actor=actor[:256],
        principal="nobody",
        authenticated=False,
        command=command,
        command_id=command_id[:128],
        reason=error.reason,
        detail=error.what,
    )
    ledger.append(event, None)
