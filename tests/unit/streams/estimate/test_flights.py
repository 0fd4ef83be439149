"""Estimated against realised quality of real flights: a model of January, watched day by day, labels three days late.

`docs/reference/estimated-quality.md` has the figures of the whole year, made the same way.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.events import Estimate, JoinedDelta, PaneDelta, QualityMetric
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.metrics.batch import label_counters
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from tests.support.replay import DAY, watermark
from tests.unit.streams.metrics import test_flights as flights

SPEC = msgspec.structs.replace(flights.SPEC, features={}, data=msgspec.structs.replace(flights.SPEC.data, segments=[]))
HOLDOUT = 7 * DAY


def _day(plan: PanePlan, day: int, late: NDArray[np.float64], score: NDArray[np.float64]) -> JoinedDelta:
    """Predictions of a day, and their labels, which come on the next."""
    guess = (score >= 0.5).astype(int)
    traffic = np.zeros(plan.size, dtype=np.int64)
    traffic[plan.slots["predicted"]] = len(score)
    bins = np.searchsorted(plan.score_edges, score, side="right")
    traffic[plan.slots["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
    traffic[plan.slots["predictions"]] = np.bincount(guess, minlength=3)
    known = ~np.isnan(late)  # cancelled flights never arrive
    labels = label_counters(plan, late[known].astype(int), guess[known], score[known])[0]
    parts = [(day, traffic), (day + 1, labels)]
    panes = [PaneDelta("", day * DAY, effect * DAY, pack_dense(counts)) for effect, counts in parts]
    return JoinedDelta("m", 1, plan.layout, 0, panes)


def _watched() -> tuple[PanePlan, list[QualityMetric]]:
    table = flights._module("flights").all_flights()
    ms = table["scheduled_departure"].astype("int64").to_numpy()
    late, month = table["late"].astype(float).to_numpy(), table["month"].to_numpy()
    end = (int(ms[month == 1].max()) // DAY + 1) * DAY
    learnt = (ms < end - HOLDOUT) & ~np.isnan(late)
    model = flights._module("pipeline").train(table[learnt], flights.SPEC, 0)
    score = model.predict_proba(table[flights.SPEC.columns()])[:, 1]
    held = (ms >= end - HOLDOUT) & (ms < end) & ~np.isnan(late)
    reference = compile_reference(
        SPEC,
        {},
        labels=late[held].astype(int),
        predictions=(score[held] >= 0.5).astype(int),
        scores=score[held],
        event_time_ms=ms[held],
    )
    plan = PanePlan(SPEC, reference)
    aggregate = AggregatePartition(1, lambda model, version: plan)
    events: list[AggregateEvent] = []
    for day in np.unique(ms[ms >= end] // DAY).tolist():
        rows = ms // DAY == day
        events += aggregate.merge(_day(plan, day, late[rows], score[rows]))
        events += aggregate.merge(watermark((day + 1) * DAY))
    return plan, [event for event in events if isinstance(event, QualityMetric) and event.estimated]


def test_a_year_of_flights() -> None:
    plan, told = _watched()
    for window, errors_below, least in (("1d", 0.95, 0.9), ("7d", 0.8, 0.85)):
        again = [metric for metric in told if metric.window == window and metric.state == "revised"]
        assert len(again) > 320
        for name in ("accuracy", "brier", "roc_auc"):
            held, errors, usual = [], [], []
            for metric in again:
                assert isinstance(metric.estimate, Estimate)
                assert metric.estimate.realised is not None
                value, realised = metric.metrics[name], metric.estimate.realised[name]
                assert value is not None
                assert realised is not None
                low, high = metric.estimate.intervals[name]
                held.append(low <= realised <= high)
                errors.append(abs(value - realised))
                usual.append(abs(plan.reference.metrics[name].value - realised))
            assert np.mean(held) >= least, (window, name)
            if name != "roc_auc":  # days are ranked alike well; scores know less of that than of the level
                assert np.mean(errors) < errors_below * np.mean(usual), (window, name)
        trust = [m.estimate.trust for m in again if isinstance(m.estimate, Estimate)]
        assert all(value is None or 0.0 <= value <= 1.0 for value in trust)
    by_month: dict[int, list[QualityMetric]] = {}
    for metric in told:
        if metric.window == "1d" and metric.state == "revised":
            by_month.setdefault(metric.window_start.month, []).append(metric)
    for month, days in by_month.items():
        if len(days) < 20:
            continue
        known = [metric.estimate.realised or {} for metric in days if isinstance(metric.estimate, Estimate)]
        estimated = np.mean([metric.metrics["accuracy"] or 0.0 for metric in days])
        truth = np.mean([realised["accuracy"] or 0.0 for realised in known])
        assert abs(estimated - truth) < 0.07, month
