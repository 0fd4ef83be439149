"""Errors by bin of the prediction: a bin that became worse is followed, and counted where the mix changes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.estimate.bins import BinFactors, BinReference, information_of, shrunk
from streams.estimate.estimates import Estimates
from streams.metrics.batch import label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.windows import Window
from tests.support.plans import specification
from tests.support.replay import DAY

WATCHED = ("mae", "rmse", "quantile_loss[0.9]")


def _day(rng: np.random.Generator, n: int, *, worse: float = 1.0, high: float = 0.5) -> tuple[NDArray, NDArray]:
    """Predictions from 0 to 100, a share `high` of them above 50; these err by `worse` times as much."""
    guess = np.where(rng.random(n) < high, rng.uniform(50, 100, n), rng.uniform(0, 50, n))
    error = rng.normal(0.0, 5.0, n) * np.where(guess > 50, worse, 1.0)
    return guess, guess - error


def _plan(rng: np.random.Generator) -> PanePlan:
    spec = specification("regression", watch=WATCHED[1:])
    spec = msgspec.structs.replace(spec, features={}, data=msgspec.structs.replace(spec.data, segments=[]))
    guess, label = _day(rng, 14_000)
    times = np.repeat(np.arange(14) * DAY, 1000)
    reference = compile_reference(spec, {}, labels=label, predictions=guess, scores=None, event_time_ms=times)
    return PanePlan(spec, reference)


def _counts(plan: PanePlan, day: tuple[NDArray, NDArray]) -> NDArray[np.int64]:
    guess, label = day
    counts = label_counters(plan, label, guess, None)[0]
    counts[plan.slots["predicted"]] = len(guess)
    bins = np.searchsorted(plan.score_edges, guess, side="right")
    counts[plan.slots["scores"]] = np.bincount(bins, minlength=len(plan.score_edges) + 1)
    return counts


def test_a_changed_error_level_in_a_bin_is_followed() -> None:
    rng = np.random.default_rng(1)
    plan = _plan(rng)
    estimates = Estimates(plan)
    later = _counts(plan, _day(rng, 5000, worse=3.0, high=0.95))
    window = Window("1d", 0, DAY)
    (before,) = estimates.make([(window, later)])
    for day in range(80):
        estimates.learn((day + 1) * DAY, _counts(plan, _day(rng, 500, worse=3.0)), usable=True)
        if day == 20:  # a restart goes on where it was
            state = estimates.snapshot()
            assert state is not None
            estimates = Estimates(plan, state)
    (after,) = estimates.make([(window, later)])
    assert before is not None
    assert after is not None
    realised = compute(plan, later)
    for name in WATCHED:
        assert before.guesses[name].value < 0.5 * realised[name], name
        assert after.guesses[name].value == pytest.approx(realised[name], rel=0.08), name
        low, high = after.intervals[name]
        assert low <= realised[name] <= high
    # One level for all bins would have learnt what half of the predictions do, and not what nearly all do now.
    learnt = compute(plan, _counts(plan, _day(rng, 5000, worse=3.0)))
    assert learnt["mae"] < 0.75 * realised["mae"]


def test_what_all_bins_do_is_left_to_the_level() -> None:
    rng = np.random.default_rng(2)
    n = np.full(10, 200.0)
    reference = BinReference(np.full(10, 3.0), 0.6, information_of(np.full((14, 10), 100.0), 0.6))
    factors = BinFactors(reference)
    for _ in range(50):
        factors.learn(n, rng.gamma(200 / 0.6, 0.6 * 9.0 / 1.0, 10), 0.95)
    assert np.abs(factors.offsets).max() < 0.1
    assert factors.variance.max() < 0.01


def test_bins_of_few_rows_are_drawn_to_the_mean() -> None:
    means = shrunk(np.array([1.0, 0.0, 10_000.0]), np.array([100.0, 0.0, 20_000.0]))
    assert means == pytest.approx([3.93, 2.01, 2.0], abs=0.02)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 10**6), min_size=4, max_size=4), st.floats(0, 1e12), st.floats(0, 1e12)),
        max_size=12,
    )
)
def test_factors_stay_finite_and_go_on_from_their_state(days: list[tuple[list[int], float, float]]) -> None:
    reference = BinReference(np.array([1.0, 2.0, 1e-6, 50.0]), 1.3, np.zeros(4))
    factors = BinFactors(reference)
    for counts, first, other in days:
        n = np.array(counts, dtype=np.float64)
        factors.learn(n, np.where(n > 0, [first, other, other, first], 0.0), 0.93)
        again = BinFactors(reference, factors.pack())
        assert np.isfinite([factors.offsets, factors.information, factors.variance]).all()
        assert again.pack() == factors.pack()
    assert (BinFactors(reference, b"other").offsets == 0).all()
