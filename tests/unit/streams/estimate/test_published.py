"""What the aggregation publishes before labels come, what becomes of it, and when it speaks up."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.events import Estimate, JoinedDelta, Observation, PaneDelta, QualityMetric
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.columns import Floats
from streams.metrics.batch import label_counters
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from tests.support.plans import specification
from tests.support.replay import DAY, watermark

SPEC = specification(watch=("accuracy", "brier"), delay="10d", windows=("1d", "7d"))


class Rows:
    """A day: logits, and labels drawn from them; `shift` moves the scores towards 0.5, `flip` swaps labels."""

    def __init__(self, rng: np.random.Generator, *, n: int = 1000, shift: float = 0.0, flip: float = 0.0) -> None:
        logit = rng.normal(0.0, 2.5 - shift, n)
        self.score = 1 / (1 + np.exp(-logit))
        label = rng.random(n) < self.score
        self.label = np.where(rng.random(n) < flip, ~label, label).astype(int)
        self.guess = (self.score >= 0.5).astype(int)


def _plan(seed: int = 1, days: int = 14) -> PanePlan:
    rng = np.random.default_rng(seed)
    rows = [Rows(rng) for _ in range(days)]
    joined = {name: np.concatenate([getattr(row, name) for row in rows]) for name in ("score", "label", "guess")}
    times = np.repeat(np.arange(days) * DAY, 1000) + 1
    reference = compile_reference(
        SPEC,
        {},
        labels=joined["label"],
        predictions=joined["guess"],
        scores=joined["score"],
        event_time_ms=times,
    )
    return PanePlan(SPEC, reference)


def _records(plan: PanePlan, rows: Rows, day: int, labelled_after: int | None) -> list[JoinedDelta]:
    at = plan.slots
    traffic: NDArray[np.int64] = np.zeros(plan.size, dtype=np.int64)
    traffic[at["predicted"]] = len(rows.score)
    bins = np.searchsorted(plan.score_edges, rows.score, side="right")
    traffic[at["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
    traffic[at["predictions"]] = np.bincount(rows.guess, minlength=3)
    panes = [PaneDelta("", day * DAY, day * DAY, pack_dense(traffic))]
    if labelled_after is not None:
        counts = label_counters(plan, rows.label, rows.guess, _floats(rows.score))[0]
        panes.append(PaneDelta("", day * DAY, (day + labelled_after) * DAY, pack_dense(counts)))
    return [JoinedDelta("m", 1, plan.layout, 0, panes)]


def _floats(values: Floats) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _run(plan: PanePlan, days: list[Rows], *, labels: int | None = 9, restart: bool = False) -> list[AggregateEvent]:
    aggregate = AggregatePartition(1, lambda model, version: plan)
    out: list[AggregateEvent] = []
    for day, rows in enumerate(days):
        for record in [*_records(plan, rows, day, labels), watermark((day + 1) * DAY)]:
            out += aggregate.merge(record)
        if restart:
            aggregate = AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: plan)
    return out


def _estimated(events: list[AggregateEvent]) -> list[QualityMetric]:
    return [event for event in events if isinstance(event, QualityMetric) and event.estimated]


def _observed(events: list[AggregateEvent]) -> list[Observation]:
    return [event for event in events if isinstance(event, Observation) and event.kind == "estimated-quality"]


def test_published_when_traffic_closes_and_again_when_labels_are_complete() -> None:
    plan = _plan()
    rng = np.random.default_rng(2)
    events = _run(plan, [Rows(rng) for _ in range(25)])
    told = _estimated(events)
    days = [metric for metric in told if metric.window == "1d"]
    first, again = ([m for m in days if m.state == state] for state in ("closed", "revised"))
    assert len(first) == 25
    assert len(again) == 15
    real = {
        (m.window, m.window_end): m
        for m in events
        if isinstance(m, QualityMetric) and not m.estimated and m.state == "closed"
    }
    for metric in first:
        assert (metric.n, metric.coverage, metric.revision, metric.segment) == (1000, 0.0, 0, None)
        assert set(metric.metrics) == {"roc_auc", "accuracy", "brier"}
        assert isinstance(metric.estimate, Estimate)
        assert metric.estimate.realised is None
    for before, after in zip(first, again, strict=False):
        truth = real[after.window, after.window_end]
        assert isinstance(after.estimate, Estimate)
        assert (after.revision, after.coverage, after.estimate.labelled) == (1, 1.0, truth.n)
        assert after.metrics == before.metrics
        assert after.estimate.realised == {name: truth.metrics[name] for name in after.metrics}
        for name, value in after.metrics.items():
            assert value == pytest.approx(truth.metrics[name], abs=0.06)
    assert {m.window for m in told} == {"1d", "7d"}
    for truth in real.values():
        assert b'"estimate"' not in msgspec.json.encode(truth)


def test_a_restart_at_every_pane_changes_nothing() -> None:
    plan = _plan()
    days = [Rows(np.random.default_rng(40 + day), shift=0.1 * max(day - 10, 0)) for day in range(22)]
    assert _run(plan, days) == _run(plan, days, restart=True)


def test_scores_that_lost_their_certainty_are_found_before_any_label() -> None:
    plan = _plan()
    rng = np.random.default_rng(3)
    calm = _run(plan, [Rows(rng) for _ in range(30)], labels=None)
    assert _observed(calm) == []
    rng = np.random.default_rng(3)
    events = _run(plan, [*(Rows(rng) for _ in range(8)), *(Rows(rng, shift=1.4) for _ in range(6))], labels=None)
    found = _observed(events)
    assert {o.subject for o in found if o.window == "1d"} >= {"accuracy", "roc_auc"}
    first = min(found, key=lambda o: o.observed_at)
    assert first.observed_at == first.window_end
    assert first.status == "opened"
    assert first.value is not None
    assert first.threshold is not None
    assert first.value < first.threshold if first.subject != "brier" else first.value > first.threshold
    assert first.evidence["low"] <= first.value <= first.evidence["high"]
    assert first.evidence["trust"] >= 0.5


def test_an_estimate_that_was_wrong_keeps_quiet() -> None:
    plan = _plan()
    rng = np.random.default_rng(4)
    odd = [Rows(rng, flip=0.35 if day % 2 else 0.0) for day in range(30)]
    later = [Rows(rng, shift=1.2) for _ in range(5)]
    events = _run(plan, [*odd, *later], labels=1)
    trust = [m.estimate.trust for m in _estimated(events) if isinstance(m.estimate, Estimate)]
    assert trust[-1] is not None
    assert trust[-1] < 0.5
    opened = [o for o in _observed(events) if o.status == "opened" and o.window_end.timestamp() * 1000 > 30 * DAY]
    assert opened == []


def test_concept_drift_is_not_seen_before_its_labels() -> None:
    """What the documentation says it cannot do."""
    plan = _plan()
    rng = np.random.default_rng(5)
    events = _run(plan, [*(Rows(rng) for _ in range(5)), *(Rows(rng, flip=0.3) for _ in range(10))], labels=None)
    assert _observed(events) == []
