"""Messages as the client library hands them out."""

from __future__ import annotations

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message


def message(
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int | None = None,
    key: bytes | None = None,
    value: bytes | None = None,
    headers: list[tuple[str, bytes | None]] | None = None,
) -> Message:
    """A message without error; no timestamp: not available."""
    kind = TIMESTAMP_NOT_AVAILABLE if timestamp_ms is None else TIMESTAMP_CREATE_TIME
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp=(kind, -1 if timestamp_ms is None else timestamp_ms),
    )
