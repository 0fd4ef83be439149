"""Snapshots of the aggregation in `monitoring-journal`: chunks under the message limit, then a manifest.

Partition q of the journal holds the snapshots of partition q of `joined-deltas`, under the key ``aggregate-<q>`` beside
the join's records. They are written in the transaction of the batch they were taken after, so a manifest that can be
read carries exactly the input offset that was committed with it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec

from schemas.errors import BrokerError, RetentionPassedError
from schemas.topics import JOINED_DELTAS, MONITORING_JOURNAL
from streams.kafka import admin
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail
from streams.kafka.records import Output, Record

CHUNK_BYTES: Final = 900_000
MOST_HELD: Final = 4_000
"""Models in one record: a name may have two hundred bytes."""
_FIRST_PROBE: Final = 256
_PROBE_GROWTH: Final = 8

_log = logging.getLogger("driftline.monitoring")


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk"):
    """A piece of a snapshot."""

    snapshot: str
    index: int
    data: bytes


class Manifest(msgspec.Struct, frozen=True, array_like=True, tag="manifest"):
    """The end of a snapshot: with it, and all its chunks, the snapshot counts. `offset`: next input record."""

    snapshot: str
    chunks: int
    offset: int
    sha256: str


class Held(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """Models that were not closed yet when a batch was committed, with the watermark up to which they are.

    It counts where `offset` (next input record) is the committed one. A long list comes in `parts`.
    """

    offset: int
    part: int
    parts: int
    models: dict[str, int]


class Snapshot(NamedTuple):
    """State of a partition as of an input offset."""

    offset: int
    data: bytes


class Kept(NamedTuple):
    """What the journal holds of a partition: the newest complete snapshot, and what was held as of which offset."""

    snapshot: Snapshot | None = None
    held_offset: int = -1
    held: Mapping[str, int] = MappingProxyType({})


class SnapshotSource(Protocol):
    """Where a handler gets its state from."""

    def newest(self, partition: int) -> Kept:
        """What the journal holds of a partition."""

    def replay(self, partition: int, start: int, end: int) -> Iterable[bytes]:
        """Values of `joined-deltas` from `start` up to, not including, `end`.

        Raises
        ------
        RetentionPassedError
        """


def snapshot_key(partition: int) -> bytes:
    """Key of the snapshots of a partition."""
    return b"aggregate-%d" % partition


def pack_snapshot(partition: int, snapshot: Snapshot) -> list[Output]:
    """Journal records of a snapshot, the manifest last.

    Examples
    --------
    >>> [output.partition for output in pack_snapshot(3, Snapshot(7, b"state"))]
    [3, 3]
    """
    digest = hashlib.sha256(snapshot.data).hexdigest()
    name = f"{snapshot.offset}-{digest[:16]}"
    pieces = [snapshot.data[i : i + CHUNK_BYTES] for i in range(0, len(snapshot.data), CHUNK_BYTES)] or [b""]
    parts: list[Chunk | Manifest] = [Chunk(name, index, piece) for index, piece in enumerate(pieces)]
    parts.append(Manifest(name, len(pieces), snapshot.offset, digest))
    key = snapshot_key(partition)
    return [Output(MONITORING_JOURNAL, msgspec.msgpack.encode(p), key, partition=partition) for p in parts]


def pack_held(partition: int, offset: int, models: Mapping[str, int]) -> list[Output]:
    """Journal records of what is held as of an input offset; to be written behind a snapshot of the same batch."""
    items = list(models.items())
    pieces = [dict(items[i : i + MOST_HELD]) for i in range(0, len(items), MOST_HELD)] or [{}]
    key = snapshot_key(partition)
    parts = [Held(offset, number, len(pieces), piece) for number, piece in enumerate(pieces)]
    return [Output(MONITORING_JOURNAL, msgspec.msgpack.encode(part), key, partition=partition) for part in parts]


def unpack_newest(records: Iterable[Record], partition: int) -> Kept:
    """What journal records (in log order) hold of one partition."""
    key = snapshot_key(partition)
    chunks: dict[str, dict[int, bytes]] = {}
    newest: Snapshot | None = None
    held_offset = -1
    held: dict[str, int] = {}
    for record in records:
        if record.key != key or record.value is None:
            continue
        part = msgspec.msgpack.decode(record.value, type=Chunk | Manifest | Held)
        if isinstance(part, Chunk):
            chunks.setdefault(part.snapshot, {})[part.index] = part.data
            continue
        if isinstance(part, Held):
            held_offset = part.offset
            held = {**(held if part.part else {}), **part.models}
            continue
        pieces = chunks.pop(part.snapshot, {})
        data = b"".join(pieces[index] for index in sorted(pieces))
        if len(pieces) == part.chunks and hashlib.sha256(data).hexdigest() == part.sha256:
            newest = Snapshot(part.offset, data)
        else:
            _log.warning("snapshot %s of partition %d is not complete, trying an older one", part.snapshot, partition)
    return Kept(newest, held_offset, held)


class JournalSnapshots:
    """Reads snapshots and their input from Kafka.

    Parameters
    ----------
    config : KafkaConfig
    timeout_s : float
        Longest a restore waits for the broker.
    """

    def __init__(self, config: KafkaConfig, *, timeout_s: float = 60.0) -> None:
        self._config = config
        self._timeout_s = timeout_s

    def newest(self, partition: int) -> Kept:
        """What the journal holds of a partition, read backwards in growing steps up to a snapshot."""
        where = (MONITORING_JOURNAL, partition)
        end = admin.end_offsets(self._config, [MONITORING_JOURNAL]).get(where, 0)
        span = _FIRST_PROBE
        while end > 0:
            start = max(end - span, 0)
            with Tail(self._config, [], from_beginning=False, offsets={where: start}) as tail:
                began = tail.positions[where]
                found = unpack_newest(tail.read_to_end(self._timeout_s), partition)
            if found.snapshot is not None or began > start or start == 0:
                return found
            span *= _PROBE_GROWTH
        return Kept()

    def replay(self, partition: int, start: int, end: int) -> Iterable[bytes]:
        """Values of `joined-deltas` from `start` to `end`.

        Raises
        ------
        RetentionPassedError
            Some of them are gone.
        BrokerError
            They could not be read in time.
        """
        if start >= end:
            return
        where = (JOINED_DELTAS, partition)
        with Tail(self._config, [], from_beginning=False, offsets={where: start}) as tail:
            if tail.positions[where] > start:
                raise RetentionPassedError(
                    f"records {start} to {tail.positions[where]} are gone, no snapshot is newer",
                    where=f"topic {JOINED_DELTAS}[{partition}]",
                    remedy="raise the topic's retention.ms; to go on without the open windows, delete the consumer "
                    "group monitoring-aggregate and both topics joined-deltas and monitoring-journal",
                )
            deadline = time.monotonic() + self._timeout_s
            while tail.positions[where] < end:
                for record in tail.poll(0.2):
                    deadline = time.monotonic() + self._timeout_s
                    if record.offset < end and record.value is not None:
                        yield record.value
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"offset {end} was not reached: {tail.positions[where]}",
                        where=f"topic {JOINED_DELTAS}[{partition}] on {self._config.bootstrap_servers}",
                    )
