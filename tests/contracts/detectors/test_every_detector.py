"""What holds of every detector: restored it says the same, its state stays small, parts add up, worse is no less."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec
import numpy as np
import pytest

from schemas.codec import segment_key
from schemas.events import JoinedDelta, Kind, Observation
from schemas.specification import DriftMeasure
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.detection import Watches
from streams.detectors import Detectors
from streams.drift.measures import MEASURES, measure_of
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.replay import DAY, watermark
from tests.support.simulate import learn, watching
from tests.support.troubles import CALM, TROUBLES, Trouble, record_with

RANK = {"info": 0, "warning": 1, "critical": 2}
MOST_STATE_BYTES = 12_000


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    spec = watching(windows=("1d",), watch=("accuracy", "brier"), segment_features=("distance",))
    return learn(spec, CALM, 14, np.random.default_rng(1))


def records_of(plan: PanePlan, trouble: Trouble, days: int) -> list[JoinedDelta | None]:
    rng = np.random.default_rng(2)
    return [record_with(plan, trouble, day, rng) for day in range(days)]


def run(
    plan: PanePlan,
    records: list[JoinedDelta | None],
    each: Callable[[AggregatePartition], AggregatePartition] = lambda aggregate: aggregate,
) -> list[AggregateEvent]:
    aggregate = AggregatePartition(1, lambda model, version: plan)
    out: list[AggregateEvent] = []
    for day, record in enumerate(records):
        if record is not None:
            out += aggregate.merge(record)
            aggregate = each(aggregate)
        out += aggregate.merge(watermark((day + 1) * DAY))
        aggregate = each(aggregate)
    return out


def observations(events: list[AggregateEvent]) -> list[Observation]:
    return [event for event in events if isinstance(event, Observation)]


@pytest.mark.parametrize("name", sorted(TROUBLES))
def test_restored_at_every_point_it_says_the_same(name: str, learnt: PanePlan) -> None:
    trouble = TROUBLES[name]
    records = records_of(learnt, trouble, trouble.since + trouble.days)

    def restored(aggregate: AggregatePartition) -> AggregatePartition:
        return AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: learnt)

    whole = run(learnt, records)
    assert run(learnt, records, restored) == whole
    wanted = [
        o
        for o in observations(whole)
        if o.kind == trouble.kind
        and trouble.subject in {"", o.subject}
        and trouble.window in {"", o.window}
        and ("segment" in name) == (o.segment is not None)
    ]
    assert wanted, [(o.kind, o.subject, o.window, segment_key(o.segment)) for o in observations(whole)]
    assert all(o.window_end.timestamp() * 1000 > trouble.since * DAY for o in wanted)


def test_a_calm_stream_says_nothing_of_any_kind(learnt: PanePlan) -> None:
    """The other half of every row above: at a budget of one false alarm in ten years, forty calm days have none."""
    spec = msgspec.structs.replace(learnt.spec, alarms=msgspec.structs.replace(learnt.spec.alarms, budget="1/3650d"))
    plan = PanePlan(spec, learnt.reference)
    calm = Trouble("", since=10**6)
    assert observations(run(plan, records_of(plan, calm, 40))) == []
    told = {trouble.kind for trouble in TROUBLES.values()}
    # The other two subjects of data quality are the join's: tests of `agents.monitoring.duplicates` and `key_check`.
    # That a version is faulty is said by people: tests of `agents.registry.flags`.
    assert told == set(get_args(Kind)) - {"faulty-version"}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["feature-drift", "category-drift", "prediction-drift", "label-drift"])
def test_whichever_distance_decides_finds_what_moved(name: str, measure: DriftMeasure) -> None:
    trouble = TROUBLES[name]
    spec = watching(windows=("1d",))
    spec = msgspec.structs.replace(spec, alarms=msgspec.structs.replace(spec.alarms, drift=measure))
    plan = learn(spec, CALM, 14, np.random.default_rng(1))
    found = [
        o
        for o in observations(run(plan, records_of(plan, trouble, trouble.since + 4)))
        if (o.kind, o.subject, o.segment) == (trouble.kind, trouble.subject, None)
    ]
    ordered = name in {"feature-drift", "prediction-drift"}
    assert found[0].evidence["statistic"] == measure_of(measure, ordered=ordered)
    assert all(o.window_end.timestamp() * 1000 > trouble.since * DAY for o in found)


@pytest.mark.parametrize("name", ["stuck", "quality", "segment-drift", "segment-silence", "new-category"])
def test_a_day_in_parts_is_the_day(name: str, learnt: PanePlan) -> None:
    """Contributions that come in several records, in any order, make the same windows and observations."""
    trouble = TROUBLES[name]
    split = np.random.default_rng(3)
    records = records_of(learnt, trouble, trouble.since + 4)
    whole = run(learnt, records)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    parted: list[AggregateEvent] = []
    for day, record in enumerate(records):
        assert record is not None
        parts = _parts(record, split)
        for at in split.permutation(len(parts)):
            parted += aggregate.merge(parts[at])
        parted += aggregate.merge(watermark((day + 1) * DAY))
    assert parted == whole


def _parts(record, split):  # type: ignore[no-untyped-def]
    """A record in three, its counters divided at random."""
    from streams.packed import pack_counters, unpack_counters

    divided = []
    for pane in record.panes:
        at, amounts = unpack_counters(pane.counters)
        first = split.integers(0, np.abs(amounts) + 1) * np.sign(amounts)
        second = split.integers(0, np.abs(amounts - first) + 1) * np.sign(amounts)
        shares = (first, second, amounts - first - second)
        divided.append([pack_counters(dict(zip(at.tolist(), part.tolist(), strict=True))) for part in shares])
    return [
        msgspec.structs.replace(
            record,
            panes=[
                msgspec.structs.replace(pane, counters=counters[part])
                for pane, counters in zip(record.panes, divided, strict=True)
            ],
        )
        for part in range(3)
    ]


def test_state_stays_small_however_long_it_runs(learnt: PanePlan) -> None:
    rng = np.random.default_rng(4)
    detectors = Detectors("m", 1, learnt)
    from streams.packed import unpack_counters

    days = []
    for trouble in (TROUBLES["quality"], TROUBLES["stuck"], TROUBLES["label-delay"]):
        for at in (0, 99):
            record = record_with(learnt, trouble, at, rng)
            assert record is not None
            total = np.zeros(learnt.size, np.int64)
            positions, amounts = unpack_counters(record.panes[0].counters)
            total[positions] = amounts
            days.append(total)
    sizes = []
    for day in range(1200):
        total = days[int(rng.integers(len(days)))] if day % 50 > 40 else days[0]
        window = Window("1d", day * DAY, (day + 1) * DAY)
        for _ in detectors.traffic(window, total, window.end_ms):
            pass
        for _ in detectors.labels(window, total, window.end_ms):
            pass
        for _ in detectors.pane(window._replace(name="pane"), total, window.end_ms):
            pass
        sizes.append(len(msgspec.msgpack.encode(detectors.snapshot())))
    assert max(sizes) <= MOST_STATE_BYTES
    assert max(sizes[900:]) <= max(sizes[:900]) * 1.1


def _ladder(plan: PanePlan, change: Callable[[np.ndarray, float], None]) -> list[int]:
    """Severity (−1: nothing said) of one window as it gets worse in forty steps."""
    base = np.zeros(plan.size, np.int64)
    for name, slots in plan.features.items():
        counts = np.array(plan.reference.features[name].counts)
        base[slots.bins.start : slots.bins.start + len(counts)] = np.round(4000 * counts / counts.sum())
    base[plan.slots["predicted"]] = 4000
    out = []
    for step in range(41):
        total = base.copy()
        change(total, step / 40)
        detectors = Detectors("m", 1, plan)
        detectors.since_ms = -10 * DAY
        found = [*detectors.traffic(Window("1d", 0, DAY), total, DAY)]
        out.append(max((RANK[o.severity] for o in found), default=-1))
    return out


def _lost(total: np.ndarray, plan: PanePlan, share: float, slot: str) -> None:
    slots = plan.features["distance"]
    gone = (total[slots.bins] * share).astype(np.int64)
    total[slots.bins] -= gone
    total[getattr(slots, slot)] += gone.sum()


def _moved(total: np.ndarray, plan: PanePlan, share: float, feature: str, into: int) -> None:
    bins = plan.features[feature].bins
    gone = (total[bins] * share).astype(np.int64)
    total[bins] -= gone
    total[bins][into] += gone.sum()


@pytest.mark.parametrize("what", ["missing", "invalid", "high", "new", "one bin", "top bin"])
def test_worse_data_is_never_less_severe(what: str, learnt: PanePlan) -> None:
    def change(total: np.ndarray, share: float) -> None:
        if what in {"missing", "invalid"}:
            _lost(total, learnt, share, what)
        elif what == "high":
            total[learnt.features["distance"].high] = int(4000 * share)
        else:
            feature, into = {"new": ("origin", -1), "one bin": ("distance", 4), "top bin": ("distance", -1)}[what]
            _moved(total, learnt, share, feature, into)

    seen = _ladder(learnt, change)
    assert seen == sorted(seen)
    assert seen[0] == -1
    assert seen[-1] == 2


@pytest.mark.parametrize(
    ("name", "worse"), [("collapse", lambda step: 400 - 10 * step), ("label-delay", lambda step: 1.0 + step / 2)]
)
def test_fewer_and_later_is_never_less_severe(name: str, worse: Callable[[int], float], learnt: PanePlan) -> None:
    from streams.drift.delays import delay_bound, delay_severity
    from streams.drift.volume import VolumeState, learn_volume, volume_bound, volume_severity

    state = VolumeState()
    for day in range(28):
        learn_volume(state, day * DAY, DAY, 400)
    bound = volume_bound(state, 28 * DAY, DAY, 1e-3) if name == "collapse" else delay_bound([1.0] * 14, 60.0, 1e-3)
    severity = volume_severity if name == "collapse" else delay_severity
    assert bound is not None
    seen = [RANK[severity(bound, worse(step))] if bound.crossed(worse(step)) else -1 for step in range(41)]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (-1, 2)


def test_nothing_is_said_twice_while_it_stays_as_it_is(learnt: PanePlan) -> None:
    found = observations(run(learnt, records_of(learnt, TROUBLES["stuck"], 30)))
    keys = [(o.kind, o.subject, segment_key(o.segment), o.window) for o in found if o.status == "opened"]
    assert len(keys) == len(set(keys))
    assert Watches("m", 1).open == {}
