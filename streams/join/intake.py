"""From bytes to what the rules work on; whatever cannot be used is refused with a reason."""

from __future__ import annotations

from schemas.codec import decode_ground_truth
from schemas.errors import DecodeError
from streams.join import rules
from streams.join.entries import TOMBSTONE_REVISION, WaitingLabel
from streams.kafka.records import Record


def decode_label(record: Record, horizon_ms: int) -> tuple[str, WaitingLabel]:
    headers = tuple(record.headers) if record.headers else None
    if record.value is None:
        if not record.key:
            raise DecodeError("a tombstone needs the prediction_id as its key", reason="empty")
        try:
            key = record.key.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("the key of the tombstone is not UTF-8", reason="schema") from error
        # It has no event time; 0 is never in the future and never moves a watermark.
        return key, WaitingLabel(
            0, TOMBSTONE_REVISION, None, record.offset, record.timestamp_ms, record.key, None, headers
        )
    truth = decode_ground_truth(record.value)
    if truth.revision <= TOMBSTONE_REVISION:
        raise DecodeError(f"revision {truth.revision} is out of range", reason="schema")
    return truth.prediction_id, WaitingLabel(
        truth.event_time_ms,
        truth.revision,
        truth.label,
        record.offset,
        record.timestamp_ms,
        record.key,
        record.value,
        headers,
        truth.event_time_ms + horizon_ms + 1,
    )


def check_future(record: Record, event_time_ms: int, now_ms: int, tolerance_ms: int) -> None:
    """Quarantine event times from the future: they would close every window at once.

    Raises
    ------
    DecodeError
    """
    at_ms = record.timestamp_ms if record.timestamp_ms > 0 else now_ms
    if event_time_ms > at_ms + tolerance_ms:
        raise DecodeError(
            f"event time {event_time_ms} is after the record's timestamp {at_ms} by more than {tolerance_ms} ms",
            reason=rules.FUTURE,
        )
