"""A log, a journal and a worker in memory, to drive `JoinPartition` and its twins the way the real ones do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.codec import encode
from schemas.events import GroundTruth, Heartbeat, JoinedDelta, JournalRecord, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join.batch import DeadLetter, JoinLimits, JoinOutcome, Slice
from streams.join.partition import TOPICS, JoinPartition
from streams.kafka.records import Record
from streams.panes import PanePlan

NOW_MS = 4_000_000_000_000
"""Timestamp of every record: late enough that nothing of a test is in the future."""

HEARTBEAT = [("ce_type", b"Heartbeat")]

Contributions = Counter[tuple[Any, ...]]
"""(model, version, layout, segment, pane, effect, position) → sum."""


# ------------------------------------------------------------------------------------------- implementations


def _simple() -> type[JoinPartition]:
    return JoinPartition


def _native() -> type[Any]:
    from streams.native.partition import NativeJoinPartition  # type: ignore[import-not-found, unused-ignore]

    return NativeJoinPartition  # type: ignore[no-any-return, unused-ignore]


def _cold() -> type[Any]:
    from tests.support.cold import ColdJoinPartition

    return ColdJoinPartition


IMPLEMENTATIONS: dict[str, Callable[[], type[Any]]] = {"simple": _simple, "native": _native, "cold": _cold}
"""Everything that joins, by name: the class, or an ImportError or OSError that says why it is not there."""


def implementation(name: str) -> type[Any]:
    """The class of that name; skips the test where it was not built."""
    try:
        return IMPLEMENTATIONS[name]()
    except (ImportError, OSError) as error:
        pytest.skip(f"join implementation {name!r} is not built: {error}")


def contributions(deltas: Iterable[JoinedDelta]) -> Contributions:
    """What the deltas of a batch add up to."""
    sums: Contributions = Counter()
    for delta in deltas:
        for pane in delta.panes:
            for position, count in counters_of(pane.counters).items():
                where = (pane.segment, pane.pane_start_ms, pane.effect_start_ms, position)
                sums[delta.model, delta.version, delta.layout, *where] += count
    return sums


def counters_of(counters: Mapping[int, int] | bytes) -> Mapping[int, int]:
    """Counters by position, packed or not."""
    if isinstance(counters, Mapping):
        return counters
    from streams.packed import unpack_counters  # type: ignore[import-not-found, unused-ignore]

    positions, counts = unpack_counters(counters)
    return dict(zip(positions.tolist(), counts.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------- a worker


class View:
    """A registry of plans, each known from an epoch on."""

    def __init__(
        self, plans: Mapping[tuple[str, int], PanePlan], epoch: int = 1, horizon_ms: int | None = None
    ) -> None:
        self.plans = dict(plans)
        self.names: dict[tuple[str, str], tuple[int, ...]] = {}
        """Numbers of the versions of models that are served elsewhere."""
        self.epoch = epoch
        self._horizon_ms = horizon_ms

    @property
    def label_horizon_ms(self) -> int:
        if self._horizon_ms is not None:
            return self._horizon_ms
        return max((plan.revision_horizon_ms for plan in self.plans.values()), default=0)

    def plan(self, model: str, version: int) -> PanePlan | None:
        return self.plans.get((model, version))

    def watched(self, model: str) -> bool:
        return any(of == model for of, _ in self.names)

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> Sequence[int]:
        return self.names.get((model, str(version)), ())

    def number(self, model: str, version: int | str) -> int | None:
        if self.watched(model):
            return next(reversed(self.numbers(model, version, 0)), None)
        return version if isinstance(version, int) and (model, version) in self.plans else None


@dataclass
class Worker:
    """Feeds a partition batch by batch and keeps what it put out, and the journal."""

    view: View
    limits: JoinLimits = field(default_factory=JoinLimits)
    partition: int = 0
    joins: type[Any] = JoinPartition
    log: dict[str, list[Record]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    at: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOPICS, 0))
    journal: list[tuple[int, JournalRecord]] = field(default_factory=list)
    deltas: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    dead: list[DeadLetter] = field(default_factory=list)
    sums: list[tuple[int, bool]] = field(default_factory=list)
    outcomes: list[JoinOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.join: JoinPartition = self.joins(self.partition, self.limits)

    # ------------------------------------------------------------------------------------------ the log

    def send(
        self, topic: str, value: bytes | None, key: bytes | None = None, headers: Any = None, at: int = NOW_MS
    ) -> int:
        records = self.log[topic]
        records.append(Record(topic, self.partition, len(records), key, value, headers, at))
        return len(records) - 1

    def predict(self, prediction: Prediction) -> int:
        return self.send(PREDICTIONS, encode(prediction), prediction.prediction_id.encode())

    def label(self, key: str, at_ms: int, label: Any = 1, revision: int = 0) -> int:
        truth = GroundTruth(prediction_id=key, event_time_ms=at_ms, label=label, revision=revision)
        return self.send(GROUND_TRUTH, encode(truth), key.encode())

    def tombstone(self, key: str) -> int:
        return self.send(GROUND_TRUTH, None, key.encode())

    def beat(self, at_ms: int, topics: Sequence[str] = TOPICS) -> None:
        for topic in topics:
            self.send(topic, encode(Heartbeat(event_time_ms=at_ms)), None, HEARTBEAT)

    # ---------------------------------------------------------------------------------------- batches

    def slice(self, take: Mapping[str, int] | None = None, idle: Mapping[str, bool] | None = None) -> Slice:
        ends = {
            topic: len(self.log[topic])
            if take is None
            else min(self.at[topic] + take.get(topic, 0), len(self.log[topic]))
            for topic in TOPICS
        }
        records = {topic: self.log[topic][self.at[topic] : ends[topic]] for topic in TOPICS}
        return Slice(records, dict(self.at), ends, dict(idle or {}), NOW_MS)

    def step(
        self, take: Mapping[str, int] | None = None, idle: Mapping[str, bool] | None = None, *, aborts: int = 0
    ) -> list[DeadLetter]:
        """Read (everything, or so many records a topic), process, journal and commit; `aborts` times in vain first."""
        batch = self.slice(take, idle)
        for _ in range(aborts):
            self.join.process(batch, self.view)
            self.join.abort()
        outcome = self.join.process(batch, self.view)
        record = self.join.journal(batch, self.view.epoch, 4)
        self.join.commit()
        # A record and its marker; a few more now and then, as aborted transactions leave them.
        offset = self.journal[-1][0] + 2 + (len(self.journal) % 3) if self.journal else 0
        self.journal.append((offset, record))
        self.at = dict(batch.ends)
        for (model, version, _, *where), count in contributions(outcome.deltas).items():
            self.deltas[model, version, *where] += count
        self.dead += outcome.dead_letters
        self.outcomes.append(outcome)
        self.sums.append((outcome.watermark_ms, outcome.idle))
        return outcome.dead_letters

    @property
    def merged(self) -> dict[tuple[Any, ...], int]:
        """All contributions so far, summed; zeros left out."""
        return {key: count for key, count in self.deltas.items() if count}

    @property
    def total(self) -> dict[str, int]:
        return self.join.totals

    # ---------------------------------------------------------------------------------------- rebuilding

    def rebuilt(self, *views: View) -> JoinPartition:
        """The state that a worker with an empty folder arrives at, from the newest journal record's low water on.

        `views`: what was registered at each epoch, where that changed.
        """
        offset, newest = self.journal[-1]
        by_epoch = {view.epoch: view for view in views}
        join: JoinPartition = self.joins(self.partition, self.limits)
        join.begin_rebuild(newest)
        for at, record in self.journal:
            if at < newest.journal_low_water or record.sequence < newest.low_water_sequence:
                continue
            starts = {topic: slice_[0] for topic, slice_ in record.slices.items()}
            ends = {topic: slice_[1] for topic, slice_ in record.slices.items()}
            records = {topic: self.log[topic][starts[topic] : ends[topic]] for topic in record.slices}
            batch = Slice(records, starts, ends, record.idle, record.now_ms)
            join.replay(batch, by_epoch.get(record.registry_epoch, self.view), record, at)
        join.end_rebuild(newest, offset)
        return join
