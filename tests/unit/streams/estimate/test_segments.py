"""Estimates of segments: published beside those of the whole, with intervals that hold, in bounded state."""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.events import Estimate, JoinedDelta, Observation, PaneDelta, QualityMetric
from schemas.specification import Specification
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.estimate.estimates import Estimates
from streams.estimate.parts import Parts
from streams.estimate.segments import MOST_PENDING
from streams.metrics.batch import label_counters
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.windows import Window
from tests.support.plans import specification
from tests.support.replay import DAY, watermark

KEYS = ("s=a", "s=b", "s=c", "s=rare")
SHARES = (0.5, 0.3, 0.19, 0.01)
OFF = np.array([0.0, 0.7, -0.5, 0.0])
"""What the scores of a segment miss: logits of the share of hits, logarithms of the error."""
Day = dict[str, NDArray]


def _spec(task: str) -> Specification:
    spec = specification(
        task, watch=("brier", "precision") if task == "binary" else ("rmse",), delay="2d", windows=("1d", "7d")
    )
    return msgspec.structs.replace(spec, features={}, data=msgspec.structs.replace(spec.data, segments=["s"]))


def _day(rng: np.random.Generator, task: str, n: int = 900, *, wobble: float = 0.15, off: NDArray = OFF) -> Day:
    """A day whose level wobbles, as a whole and by segment."""
    segment = rng.choice(len(KEYS), n, p=SHARES)
    beside = off[segment] + rng.normal(0, wobble) + rng.normal(0, wobble, len(KEYS))[segment]
    if task == "binary":
        logit = rng.normal(0.4 * (segment - 1), 1.5)
        score = 1 / (1 + np.exp(-logit))
        label = (rng.random(n) < 1 / (1 + np.exp(-logit - beside))).astype(int)
        return {"segment": segment, "score": score, "guess": (score >= 0.5).astype(int), "label": label}
    guess = rng.normal(10.0 * segment, 20.0)
    label = guess + rng.normal(0, 1, n) * np.exp(0.02 * guess + beside)
    return {"segment": segment, "score": guess, "guess": guess, "label": label}


@lru_cache(maxsize=4)
def _plan(task: str) -> PanePlan:
    rng = np.random.default_rng(1)
    days = [_day(rng, task) for _ in range(14)]
    whole = {name: np.concatenate([day[name] for day in days]) for name in days[0]}
    spec = _spec(task)
    reference = compile_reference(
        spec,
        {},
        labels=whole["label"],
        predictions=whole["guess"],
        scores=whole["score"] if task == "binary" else None,
        event_time_ms=np.repeat(np.arange(14) * DAY, 900) + 1,
        segments={"s": np.array([key[2:] for key in KEYS], dtype=object)[whole["segment"]]},
    )
    return PanePlan(spec, reference)


def _counts(plan: PanePlan, day: Day, rows: NDArray) -> tuple[NDArray, NDArray]:
    """What the traffic and what the labels of some rows add up to."""
    score, guess = day["score"][rows], day["guess"][rows]
    traffic: NDArray[np.int64] = np.zeros(plan.size, dtype=np.int64)
    traffic[plan.slots["predicted"]] = len(guess)
    bins = np.searchsorted(plan.score_edges, score, side="right")
    traffic[plan.slots["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
    if plan.task == "binary":
        traffic[plan.slots["predictions"]] = np.bincount(guess, minlength=3)
    return traffic, label_counters(plan, day["label"][rows], guess, score)[0]


def _record(plan: PanePlan, day: Day, number: int) -> JoinedDelta:
    panes = []
    for code, key in [(-1, ""), *enumerate(KEYS)]:
        rows = day["segment"] == code if key else np.ones(len(day["segment"]), dtype=bool)
        traffic, labels = _counts(plan, day, rows)
        panes.append(PaneDelta(key, number * DAY, number * DAY, pack_dense(traffic)))
        if rows.any():
            panes.append(PaneDelta(key, number * DAY, (number + 1) * DAY, pack_dense(labels)))
    return JoinedDelta("m", 1, plan.layout, 0, panes)


def _run(plan: PanePlan, days: list[Day], *, restart: bool = False) -> list[AggregateEvent]:
    aggregate = AggregatePartition(1, lambda model, version: plan)
    out: list[AggregateEvent] = []
    for number, day in enumerate(days):
        for record in (_record(plan, day, number), watermark((number + 1) * DAY)):
            out += aggregate.merge(record)
        if restart:
            aggregate = AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: plan)
    return out


def _told(events: list[AggregateEvent]) -> list[QualityMetric]:
    return [event for event in events if isinstance(event, QualityMetric) and event.estimated and event.segment]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_intervals_of_segments_hold(task: str) -> None:
    plan = _plan(task)
    rng = np.random.default_rng(2)
    events = _run(plan, [_day(rng, task) for _ in range(45)])
    told = _told(events)
    assert {str(metric.segment["s"]) for metric in told if metric.segment} == {"a", "b", "c"}
    for window in ("1d", "7d"):
        for name in plan.spec.watched:
            held, error, usual = [], [], []
            for metric in told:
                estimate = metric.estimate
                if metric.window != window or metric.state == "closed" or not isinstance(estimate, Estimate):
                    continue
                value, realised = metric.metrics[name], (estimate.realised or {})[name]
                assert value is not None
                assert realised is not None
                low, high = estimate.intervals[name]
                held.append(low <= realised <= high)
                error.append(abs(value - realised))
                usual.append(abs(plan.reference.metrics[name].value - realised))
            assert len(held) >= 100
            assert np.mean(held) >= 0.88, (window, name)
            if name not in {"roc_auc", "brier"}:  # in these, segments hardly differ
                assert np.mean(error) < 0.9 * np.mean(usual), (window, name)


def test_each_segment_is_told_when_traffic_closes_and_again_with_its_labels() -> None:
    plan = _plan("binary")
    rng = np.random.default_rng(3)
    events = _run(plan, [_day(rng, "binary") for _ in range(6)])
    real = {
        (m.window, m.window_end, str(m.segment)): m
        for m in events
        if isinstance(m, QualityMetric) and not m.estimated and m.segment
    }
    closed = {(m.window, m.window_end, str(m.segment)): m for m in _told(events) if m.state == "closed"}
    again = [m for m in _told(events) if m.state == "revised"]
    assert len(closed) == 6 * 3 * 2
    assert len(again) == 4 * 3 * 2
    for metric in again:
        at = (metric.window, metric.window_end, str(metric.segment))
        assert isinstance(metric.estimate, Estimate)
        assert metric.metrics == closed[at].metrics
        assert metric.estimate.intervals == closed[at].estimate.intervals  # type: ignore[union-attr]
        assert metric.estimate.realised == {name: real[at].metrics[name] for name in metric.metrics}
        assert (metric.estimate.labelled, metric.revision) == (real[at].n, 1)
    assert not any(isinstance(event, Observation) and event.kind == "estimated-quality" for event in events)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_restart_at_every_pane_changes_nothing(task: str) -> None:
    plan = _plan(task)
    days = [_day(np.random.default_rng(50 + day), task) for day in range(12)]
    assert _run(plan, days) == _run(plan, days, restart=True)


def test_a_segment_that_changed_is_followed_and_the_others_are_not_moved() -> None:
    plan = _plan("binary")
    rng = np.random.default_rng(4)
    changed = OFF + np.array([0.0, 0.0, 2.5, 0.0])
    events = _run(plan, [_day(rng, "binary", wobble=0.05, off=changed) for _ in range(40)])
    errors: dict[str, list[float]] = {}
    name = "precision"
    for metric in _told(events):
        if metric.window == "1d" and metric.state == "revised" and metric.segment:
            realised = metric.estimate.realised  # type: ignore[union-attr]
            assert realised is not None
            errors.setdefault(metric.segment["s"], []).append((metric.metrics[name] or 0.0) - (realised[name] or 0.0))
    assert abs(np.mean(errors["c"][:3])) > 3 * abs(np.mean(errors["c"][-8:]))
    for key in "abc":
        assert abs(np.mean(errors[key][-8:])) < 0.09, key


def test_nothing_is_told_where_nobody_asks_or_the_reference_is_older() -> None:
    plan = _plan("binary")
    off = msgspec.structs.replace(plan.spec, alarms=msgspec.structs.replace(plan.spec.alarms, estimate=False))
    assert plan.reference.estimate is not None
    older = msgspec.structs.replace(plan.reference.estimate, segments={}, segment_errors={}, segment_spread=([], []))
    before = msgspec.structs.replace(plan.reference, estimate=older)
    days = [_day(np.random.default_rng(60 + day), "binary") for day in range(4)]
    whole = _run(plan, days)
    assert _told(_run(PanePlan(off, plan.reference), days)) == []
    without = _run(PanePlan(plan.spec, before), days)
    assert _told(without) == []
    assert without == [event for event in whole if event not in _told(whole)]


def test_state_is_bounded_however_late_labels_are() -> None:
    plan = PanePlan(msgspec.structs.replace(
        _plan("binary").spec, data=msgspec.structs.replace(_plan("binary").spec.data, max_label_delay="60d")
    ), _plan("binary").reference)  # fmt: skip
    estimates = Estimates(plan)
    day = _day(np.random.default_rng(5), "binary")
    parts = {key: _counts(plan, day, day["segment"] == code)[0] for code, key in enumerate(KEYS)}
    whole, _ = _counts(plan, day, np.ones(900, dtype=bool))
    sizes = []
    for number in range(130):
        for name, length in (("1d", 1), ("7d", 7)):
            window = Window(name, (number + 1 - length) * DAY, (number + 1) * DAY)
            made = estimates.make_parts(window, whole, parts)
            assert set(made) == set(KEYS[:3])
        if number >= 60:
            estimates.learn((number - 59) * DAY, whole, usable=False)
        state = estimates.snapshot()
        assert state is not None
        assert state.segments is not None
        assert sum(len(one.parts) for one in state.segments.waiting) <= MOST_PENDING + 2 * len(KEYS)
        sizes.append(len(msgspec.msgpack.encode(state)))
    assert max(sizes) < 12_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-6, 1e6)), min_size=3, max_size=3), max_size=12))
def test_levels_stay_finite_and_go_on_from_their_state(days: list[list[tuple[float, float]]]) -> None:
    parts = Parts(("a", "b", "c"), 1)
    for day in days:
        off, chance = np.array(day).T[..., None]
        parts.learn(np.arange(3), off, np.where(chance > 1e5, np.inf, chance), 0.9)
        again = Parts(parts.keys, 1, parts.pack())
        assert again.pack() == parts.pack()
        assert np.isfinite([parts.offsets, parts.information, [parts.variance(row, 1.0) for row in range(3)]]).all()
