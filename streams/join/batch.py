"""What goes into a batch of one partition, what comes out of it, and its overlay in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from schemas.events import JoinedDelta
from schemas.topics import GROUND_TRUTH
from streams.join.deltas import Deltas
from streams.join.entries import Entry, WaitingLabel
from streams.join.generations import Generation
from streams.join.watermarks import NO_WATERMARK
from streams.kafka.records import Record
from streams.packed import decode_delta, deltas_of
from streams.panes import PanePlan


class PlanView(Protocol):
    """What is registered, as one batch sees it."""

    @property
    def epoch(self) -> int:
        """Epoch of the registry up to which this view knows versions."""

    @property
    def label_horizon_ms(self) -> int:
        """How long a label waits for its prediction: the longest revision_horizon of any version."""

    def plan(self, model: str, version: int) -> PanePlan | None:
        """Plan of a version; None: not registered."""

    def watched(self, model: str) -> bool:
        """Whether the model is served elsewhere: what its predictions call a version is a name of its own."""

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> Sequence[int]:
        """Numbers that a version of a watched model has been given, the newest last; none: no more are given out.

        Raises
        ------
        VersionsMovedError
            Other numbers hold from now on: the batch has to begin anew, with a new view.
        """


class VersionsMovedError(Exception):
    """While a batch was computed, versions of watched models got numbers that the batch has to see from its start."""


class ChunkStore(Protocol):
    """Where an implementation of the join reads what it keeps outside of memory."""

    def many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """Values of keys, in their order."""


@dataclass(frozen=True)
class JoinLimits:
    """Limits of time.

    Parameters
    ----------
    grace_ms : int
        Disorder of event time tolerated: a topic's watermark stays behind its newest event by it.
    future_tolerance_ms : int
        A record whose event time is later than its timestamp by more is quarantined.
    targets : int
        Partitions of `joined-deltas`.
    """

    grace_ms: int = 60_000
    future_tolerance_ms: int = 86_400_000
    targets: int = 1


@dataclass(frozen=True)
class Slice:
    """What one batch read of one partition.

    Parameters
    ----------
    records : mapping of str to sequence of Record
        By topic, in the log's order.
    starts, ends : mapping of str to int
        By topic: offset at which the batch begins, and at which the next will.
    idle : mapping of str to bool
        By topic: drained to the last stable offset.
    now_ms : int
        Stands in for the timestamp of records that have none.
    """

    records: Mapping[str, Sequence[Record]]
    starts: Mapping[str, int]
    ends: Mapping[str, int]
    idle: Mapping[str, bool]
    now_ms: int


@dataclass
class DeadLetter:
    """A record that could not be used, and why."""

    record: Record
    reason: str
    message: str


@dataclass
class JoinOutcome:
    """What a batch comes to. It counts once `JoinPartition.commit` is called."""

    records: list[tuple[int, bytes]] = field(default_factory=list)
    """Records of `joined-deltas`, each with the partition it goes to."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    watermark_ms: int = NO_WATERMARK
    idle: bool = False
    watermark_moved: bool = False
    """The watermark or the idle flag of the partition changed."""

    @cached_property
    def deltas(self) -> list[JoinedDelta]:
        """What the records hold."""
        return [delta for _, value in self.records for delta in deltas_of(decode_delta(value))]


class Overlay:
    """The overlay of one batch; also the `rules.Effects` of its records."""

    def __init__(self, partition: int, deltas: Deltas | None, began: Generation) -> None:
        self.partition = partition
        self.deltas = deltas
        self.began = began
        self.entries: dict[str, Entry | None] = {}
        self.totals: Counter[str] = Counter()
        self.live: Counter[int] = Counter()
        self.records = 0
        self.dead_letters: list[DeadLetter] = []
        self.topic_watermarks: dict[str, int] = {}
        self.watermark_ms = NO_WATERMARK
        self.idle: dict[str, bool] = {}

    def count(self, name: str, by: int = 1) -> None:
        self.totals[name] += by

    def refuse(self, label: WaitingLabel, reason: str, message: str) -> None:
        record = Record(
            GROUND_TRUTH, self.partition, label.offset, label.key, label.value, label.headers, label.timestamp_ms
        )
        self.dead_letters.append(DeadLetter(record, reason, message))
