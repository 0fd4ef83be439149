"""What is read from and written to topics: plain tuples without confluent_kafka in them, and the dead letter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.topics import MAX_MESSAGE_BYTES, dead_letter_topic

RecordHeaders = Sequence[tuple[str, bytes | None]]
ERROR_HEADER = "__dlq.errors."
_MESSAGE_LIMIT = 2_000


class Record(NamedTuple):
    """One record as it was read; `topic` without the installation's prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders | None
    timestamp_ms: int


Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]


class Columns(NamedTuple):
    """Some records of one partition, by field; `headers` is None where no record has any."""

    values: list[bytes | None]
    timestamps_ms: np.ndarray[tuple[int], np.dtype[np.int64]]
    headers: Sequence[RecordHeaders | None] | None


def columns_of(records: Sequence[Record]) -> Columns:
    """Records of one partition by field; without making any where they come straight from the client library."""
    made = getattr(records, "columns", None)
    if made is not None:
        found: Columns = made()
        return found
    headers = [record.headers for record in records]
    return Columns(
        [record.value for record in records],
        np.fromiter((record.timestamp_ms for record in records), np.int64, len(records)),
        headers if any(headers) else None,
    )


def offsets_of(records: Sequence[Record]) -> Offsets:
    """Offsets of some records of one partition; there is at least one."""
    made = getattr(records, "offsets", None)
    if made is not None:
        found: Offsets = made()
        return found
    return np.fromiter((record.offset for record in records), np.int64, len(records))


def keys_of(records: Sequence[Record]) -> list[bytes | None]:
    """Keys of some records of one partition."""
    made = getattr(records, "keys", None)
    if made is not None:
        found: list[bytes | None] = made()
        return found
    return [record.key for record in records]


class Output(NamedTuple):
    """One record to write; `topic` without the installation's prefix, partition -1 lets the key decide."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: RecordHeaders | None = None
    partition: int = -1


def _size(key: bytes | None, value: bytes | None, headers: RecordHeaders) -> int:
    return len(key or b"") + len(value or b"") + sum(len(name) + len(data or b"") + 10 for name, data in headers)


def dead_letter(record: Record, reason: str, message: str, group: str, *, withheld: bool = False) -> Output:
    """The dead letter of a record that could not be used.

    Parameters
    ----------
    record : Record
        Key, value and headers are passed on byte for byte.
    reason : str
        Short and machine-readable: ``malformed-json``, ``schema``, ``late`` …
    message : str
        What a person reads; cut at 2,000 characters.
    group : str
        The consumer group that refused the record.
    withheld : bool
        The value may be a person's that cannot be told: it is replaced as an oversize one is.

    Notes
    -----
    A record that would not fit into a message together with the error headers is replaced by a JSON digest (size and
    SHA-256 of the value), so that an oversize record cannot wedge the stream; headers and key are kept unless they
    themselves are what does not fit.
    """
    errors: list[tuple[str, bytes | None]] = [
        (ERROR_HEADER + "topic", record.topic.encode()),
        (ERROR_HEADER + "partition", str(record.partition).encode()),
        (ERROR_HEADER + "offset", str(record.offset).encode()),
        (ERROR_HEADER + "group", group.encode()),
        (ERROR_HEADER + "delivery.count", b"1"),
        (ERROR_HEADER + "reason", reason.encode()),
        (ERROR_HEADER + "message", message[:_MESSAGE_LIMIT].encode(errors="replace")),
    ]
    topic = dead_letter_topic(record.topic)
    headers = [*(record.headers or ()), *errors]
    if not withheld and _size(record.key, record.value, headers) <= MAX_MESSAGE_BYTES:
        return Output(topic, record.value, record.key, headers)
    value = record.value or b""
    digest = json.dumps({"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}).encode()
    kept = headers if _size(None, None, headers) <= MAX_MESSAGE_BYTES // 4 else errors
    key = record.key if len(record.key or b"") <= MAX_MESSAGE_BYTES // 4 else None
    return Output(topic, digest, key, [*kept, (ERROR_HEADER + "digest", b"sha256")])
