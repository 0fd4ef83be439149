"""Losses and hits of tasks that have no two score histograms."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.estimate.estimates import Estimates
from streams.estimate.losses import Level, LevelState, fit_weights
from streams.metrics.batch import label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.windows import Window
from tests.support.plans import specification
from tests.support.replay import DAY

DAY_WINDOW = Window("1d", 0, DAY)
Table = dict[str, NDArray]


def _numbers(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> Table:
    """A regression that errs the more the larger its feature is."""
    distance = rng.uniform(0.0, 1.0, n) ** (1.0 / (1.0 + shift))
    truth = rng.normal(100.0, 20.0, n)
    return {"distance": distance, "label": truth, "guess": truth + rng.normal(0.0, 2.0 + 10.0 * distance)}


def _plan_of_numbers(rng: np.random.Generator) -> PanePlan:
    table = _numbers(rng, 14_000)
    spec = specification("regression", watch=("rmse", "quantile_loss[0.9]"))
    spec = msgspec.structs.replace(
        spec, features={"distance": "numeric"}, data=msgspec.structs.replace(spec.data, segments=[])
    )
    reference = compile_reference(
        spec,
        {"distance": table["distance"]},
        labels=table["label"],
        predictions=table["guess"],
        scores=None,
        event_time_ms=np.repeat(np.arange(14) * DAY, 1000),
    )
    return PanePlan(spec, reference)


def _counts_of_numbers(plan: PanePlan, table: Table) -> NDArray[np.int64]:
    counts = label_counters(plan, table["label"], table["guess"], None)[0]
    counts[plan.slots["predicted"]] = len(table["label"])
    bins = np.searchsorted(plan.score_edges, table["guess"], side="right")
    counts[plan.slots["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
    where = plan.features["distance"]
    edges = plan.reference.features["distance"].edges  # type: ignore[union-attr]
    bins = np.searchsorted(edges, table["distance"], side="right")
    counts[where.bins] = np.bincount(bins, minlength=len(edges) + 1)
    return counts


def test_errors_that_a_feature_tells_are_foreseen() -> None:
    rng = np.random.default_rng(1)
    plan = _plan_of_numbers(rng)
    values = {}
    for shift in (0.0, 4.0):
        counts = _counts_of_numbers(plan, _numbers(rng, 4000, shift=shift))
        (made,) = Estimates(plan).make([(DAY_WINDOW, counts)])
        assert made is not None
        realised = compute(plan, counts)
        for name in ("mae", "rmse", "quantile_loss[0.9]"):
            assert made.guesses[name].value == pytest.approx(realised[name], rel=0.06), (shift, name)
            low, high = made.intervals[name]
            assert low <= realised[name] <= high
        values[shift] = made.guesses["mae"].value
    assert values[4.0] > 1.2 * values[0.0]


def test_a_level_that_rose_is_followed() -> None:
    rng = np.random.default_rng(2)
    plan = _plan_of_numbers(rng)
    estimates = Estimates(plan)
    table = _numbers(rng, 3000)
    table["guess"] = table["label"] + 2.0 * (table["guess"] - table["label"])
    counts = _counts_of_numbers(plan, table)
    realised = compute(plan, counts)["mae"]
    (before,) = estimates.make([(DAY_WINDOW, counts)])
    for day in range(60):
        estimates.learn((day + 1) * DAY, counts, usable=True)
    (after,) = estimates.make([(DAY_WINDOW, counts)])
    assert before is not None
    assert after is not None
    assert before.guesses["mae"].value < 0.6 * realised
    assert after.guesses["mae"].value == pytest.approx(realised, rel=0.1)


def test_weights_find_additive_losses() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 3, 20_000), rng.integers(0, 2, 20_000)
    loss = 1.0 + a + 2.0 * b + rng.normal(0, 0.1, 20_000)
    mean, weights = fit_weights([(a, 3), (b, 2)], loss)
    for first in range(3):
        for second in range(2):
            assert mean + weights[first] + weights[3 + second] == pytest.approx(1.0 + first + 2.0 * second, abs=0.1)
    assert mean + np.bincount(a) @ weights[:3] / len(a) + np.bincount(b) @ weights[3:] / len(b) == pytest.approx(
        loss.mean(), rel=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e300), st.floats(0, 1e300), st.integers(0, 10**7)), max_size=15))
def test_levels_stay_finite_and_go_on_from_their_state(seen: list[tuple[float, float, int]]) -> None:
    level = Level(2.0, LevelState())
    for realised, base, n in seen:
        level.learn(realised, base, n=n, kept=0.95)
        assert np.isfinite([*level.state, level.variance(1.0), level.variance(7.0)]).all()
        (again,) = LevelState.unpack(level.state.pack(), 1)
        assert again == level.state
        assert LevelState.unpack(level.state.pack(), 2) == []


def _classes(rng: np.random.Generator, n: int, sure: float) -> Table:
    """Three classes; the predicted one is right as often as its probability says."""
    score = np.clip(rng.beta(sure, 3.0, n), 0.34, 0.99)
    guess = rng.integers(0, 3, n)
    right = rng.random(n) < score
    label = np.where(right, guess, (guess + 1 + rng.integers(0, 2, n)) % 3)
    names = np.array(["a", "b", "c"], dtype=object)
    return {"score": score, "guess": names[guess], "label": names[label]}


def test_multiclass_accuracy_follows_the_probability_of_what_was_predicted() -> None:
    rng = np.random.default_rng(4)
    spec = specification("multiclass")
    table = _classes(rng, 14_000, sure=6.0)
    reference = compile_reference(
        spec,
        {},
        labels=table["label"],
        predictions=table["guess"],
        scores=table["score"],
        event_time_ms=np.repeat(np.arange(14) * DAY, 1000),
        classes=["a", "b", "c"],
    )
    plan = PanePlan(spec, reference)
    estimates = Estimates(plan)
    for day, sure in enumerate((6.0, 6.0, 2.0)):
        table = _classes(rng, 4000, sure)
        counts = label_counters(plan, table["label"], table["guess"], table["score"])[0]
        counts[plan.slots["predicted"]] = 4000
        bins = np.searchsorted(plan.score_edges, table["score"], side="right")
        counts[plan.slots["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
        (made,) = estimates.make([(Window("1d", day * DAY, (day + 1) * DAY), counts)])
        assert made is not None
        assert made.guesses["accuracy"].value == pytest.approx(compute(plan, counts)["accuracy"], abs=0.025)
        estimates.learn((day + 1) * DAY, counts, usable=True)
