"""Windows that close later than they are due close as if they had closed at once, whatever happens in between."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.errors import DecodeError
from schemas.events import DeltaBatch, DeltaRecord, JoinedDelta
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.native.library import available
from streams.packed import encode_delta
from tests.support.plans import plan, prediction
from tests.support.replay import DAY, Event, deltas, split, watermark

PLAN = plan(watch=("accuracy",), windows=("1d", "3d", "60n"), horizon="2d")
MODELS = ("a", "b", "c", "d")
CLASSES: list[type[AggregatePartition]] = [AggregatePartition]
if available():
    from streams.native.aggregate import NativeAggregatePartition

    CLASSES.append(NativeAggregatePartition)

Told = dict[str, list[bytes]]


def _log(rng: random.Random) -> list[bytes]:
    """Days of traffic of a few models and versions, out of order and too late at times, under two watermarks."""
    records: list[DeltaRecord] = []
    at = [0, 0]
    for day in range(9):
        for _ in range(rng.randint(1, 4)):
            batch: list[JoinedDelta] = []
            for model in MODELS:
                if rng.random() < (0.2 if model == "d" and day > 2 else 0.6):
                    late = rng.choice([0, 0, 0, 1, 3]) if day > 3 else 0
                    events = []
                    for i in range(rng.randint(1, 8)):
                        score = rng.random()
                        p = prediction(
                            f"{day}{i}",
                            (day - late) * DAY + rng.randrange(DAY),
                            value=int(score > 0.5),
                            probability=score,
                            origin=rng.choice(["JFK", None]),
                        )
                        events.append(Event(p, rng.choice([0, 1, None]), rng.randrange(2 * DAY)))
                    record = deltas(PLAN, events, version=rng.choice([1, 1, 2 if day > 3 else 1]))
                    for part in split(record, rng.choice([1, 3])):
                        assert isinstance(part, JoinedDelta)
                        batch.append(JoinedDelta(model, part.version, part.layout, part.partition, part.panes))
            rng.shuffle(batch)
            records.append(DeltaBatch(batch) if rng.random() < 0.8 or not batch else batch[0])
        for partition in (0, 1):
            if rng.random() < 0.7:
                at[partition] = max(at[partition], day * DAY + rng.randrange(2 * DAY))
                records.append(watermark(at[partition], partition=partition, idle=rng.random() < 0.1))
    records += [watermark(30 * DAY, partition=partition) for partition in (0, 1)]
    return [encode_delta(record) for record in records]


def _collect(told: Told, events: list[AggregateEvent] | None) -> None:
    for event in events or ():
        told[event.model].append(encode(event))


def _at_once(log: list[bytes]) -> tuple[Told, bytes]:
    aggregate = AggregatePartition(2, lambda model, version: PLAN)
    told: Told = defaultdict(list)
    for value in log:
        _collect(told, aggregate.take(value))
    return told, aggregate.snapshot()


class _Worker:
    """Takes a log in batches that close little, are aborted, and end with a crash at times."""

    def __init__(self, kind: type[AggregatePartition], log: list[bytes], rng: random.Random) -> None:
        self.kind, self.log, self.rng = kind, log, rng
        self.live = kind(2, lambda model, version: PLAN, deferred=True)
        self.told: Told = defaultdict(list)
        self.committed = 0
        self.held: dict[str, int] = {}
        self.snapshot: tuple[int, bytes] | None = None

    def run(self) -> None:
        while self.committed < len(self.log) or self.held:
            end = min(self.committed + self.rng.randint(0, 3), len(self.log))
            told: Told = defaultdict(list)
            self.live.begin()
            for value in self.log[self.committed : end]:
                assert self.live.take(value) == []
            for _ in range(self.rng.choice([0, 0, 1, 2])):
                _collect(told, self.live.close_next())
            if self.rng.random() < 0.1:
                self.live.next_provisional()
            snapshot = self.live.snapshot() if self.rng.random() < 0.2 else None
            held = self.live.held()
            fate = self.rng.random()
            if fate < 0.2:
                self.live.abort()
                continue
            if fate < 0.3:
                self.restart()
                continue
            self.committed, self.held = end, held
            for model, events in told.items():
                self.told[model] += events
            if snapshot is not None:
                self.snapshot = (end, snapshot)
            if fate < 0.45:
                self.restart()
            else:
                self.live.commit()

    def restart(self) -> None:
        def plan_of(model: str, version: int) -> object:
            return PLAN

        if self.snapshot is None:
            start, self.live = 0, self.kind(2, plan_of, deferred=True)  # type: ignore[arg-type]
        else:
            start, data = self.snapshot
            self.live = self.kind.from_snapshot(data, plan_of, deferred=True)  # type: ignore[arg-type]
        self.live.begin_restore(self.held)
        for value in self.log[start : self.committed]:
            self.live.take(value)
        self.live.end_restore()
        assert self.live.held() == self.held


@pytest.mark.parametrize("kind", CLASSES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_closing_later_is_closing_at_once(kind: type[AggregatePartition], seed: int) -> None:
    log = _log(random.Random(seed))
    expected, state = _at_once(log)
    worker = _Worker(kind, log, random.Random(seed + 1))
    worker.run()
    assert worker.told == expected
    assert worker.live.snapshot() == state
    assert sum(map(len, expected.values())) > 20


@pytest.mark.parametrize("kind", CLASSES)
def test_a_held_model_does_not_hold_the_others(kind: type[AggregatePartition]) -> None:
    aggregate = kind(1, lambda model, version: PLAN, deferred=True)
    events = [Event(prediction("1", 5, probability=0.7), 1, 10)]
    of = {model: deltas(PLAN, events) for model in "ab"}
    for model, delta in of.items():
        aggregate.merge(JoinedDelta(model, 1, PLAN.layout, 0, delta.panes))
    aggregate.merge(watermark(DAY))
    assert aggregate.held() == {"a": -1, "b": -1}
    first = aggregate.close_next() or []
    assert {event.model for event in first} == {"a"}
    assert aggregate.held() == {"b": -1}
    before = aggregate.models["b"].series[1].pending.waiting()
    for model in "ab":
        aggregate.merge(JoinedDelta(model, 1, PLAN.layout, 0, of[model].panes))
    assert aggregate.models["b"].series[1].pending.waiting() == before
    assert len(aggregate.models["b"].inbox) == 1
    assert aggregate.models["a"].inbox == []
    assert {event.model for event in aggregate.close_next() or []} == {"b"}
    assert aggregate.close_next() is None
    assert aggregate.models["a"].series[1].pending.waiting() == aggregate.models["b"].series[1].pending.waiting()


@pytest.mark.parametrize("kind", CLASSES)
def test_bytes_that_are_no_record_change_nothing(kind: type[AggregatePartition]) -> None:
    aggregate = kind(1, lambda model, version: PLAN)
    good = deltas(PLAN, [Event(prediction("1", 5, probability=0.7), 1, 10)])
    value = encode_delta(DeltaBatch([good, good]))
    aggregate.take(value)
    before = aggregate.snapshot()
    for cut in (1, 9, len(value) // 2, len(value) - 1):
        with pytest.raises(DecodeError):
            aggregate.take(value[:cut])
        with pytest.raises(DecodeError):
            aggregate.take(value[:cut] + b"\xc1" + value[cut:])
    assert aggregate.snapshot() == before


@pytest.mark.parametrize("kind", CLASSES)
def test_damaged_counters_are_found_when_they_are_added_up(kind: type[AggregatePartition]) -> None:
    aggregate = kind(1, lambda model, version: PLAN)
    good = deltas(PLAN, [Event(prediction("1", 5, probability=0.7), 1, 10)])
    damaged = [type(pane)(pane.segment, pane.pane_start_ms, pane.effect_start_ms, b"\x80") for pane in good.panes]
    aggregate.merge(good)
    aggregate.merge(JoinedDelta("m", 1, PLAN.layout, 0, damaged))
    with pytest.raises(DecodeError):
        aggregate.merge(watermark(DAY))


@pytest.mark.parametrize("kind", CLASSES)
def test_much_is_added_up_as_it_comes(kind: type[AggregatePartition]) -> None:
    aggregate = kind(1, lambda model, version: PLAN)
    one = deltas(PLAN, [Event(prediction("1", 5, probability=0.7), 1, 10)])
    value = encode_delta(DeltaBatch([one] * 200))
    for _ in range(5):
        aggregate.begin()
        aggregate.take(value)
        aggregate.commit()
    [(_, counters), *_] = aggregate.models["m"].series[1].pending.waiting()
    assert len(counters) < 3 * len(one.panes[0].counters)
