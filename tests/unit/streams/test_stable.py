"""The first quiet panes refine levels: what they may move, and what stays as the reference said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reference import MetricReference
from streams.metrics.levels import between_panes, stretch
from streams.stable import MOST_SHIFT, StablePanes, learn_pane, refined_levels, stable_panes

SCALE = 0.4


def level(**over: float) -> MetricReference:
    given_ = {"value": 0.8, "spread": 0.01, "scale": SCALE, "pane_value": 0.8, "panes": 14, "n": 1400}
    return MetricReference(**(given_ | over))  # type: ignore[arg-type]


def learnt(values: np.ndarray, n: int = 100) -> StablePanes:
    stable = StablePanes()
    for value in values:
        learn_pane(stable, n, [float(value)], len(values))
    return stable


def refined(values: np.ndarray, n: int = 100, **over: float) -> MetricReference:
    return refined_levels({"accuracy": level(**over)}, ["accuracy"], learnt(values, n))["accuracy"]


def test_levels_are_refined_half_way_and_at_the_end_only() -> None:
    stable = StablePanes()
    when = [day for day in range(40) if learn_pane(stable, 100, [0.8], 28)]
    assert when == [13, 27]
    assert len(stable.panes) == 28  # bounded


def test_panes_with_few_labels_are_not_learnt_from() -> None:
    stable = StablePanes()
    assert not learn_pane(stable, 29, [0.8], 28)
    assert stable.panes == []


@pytest.mark.parametrize(("pane_ms", "panes"), [(86_400_000, 28), (604_800_000, 28), (3_600_000, 168), (60_000, 0)])
def test_short_panes_are_learnt_for_a_week_or_not_at_all(pane_ms: int, panes: int) -> None:
    assert stable_panes(pane_ms) == panes


def test_steady_days_narrow_what_the_reference_did_not_know() -> None:
    rng = np.random.default_rng(1)
    quiet = rng.normal(0.8, SCALE / 10, 28)
    now = refined(quiet, spread=0.02)
    assert now.spread < 0.02
    assert (now.panes, now.n) == (42, 1400 + 2800)


def test_days_that_differ_widen_it() -> None:
    rng = np.random.default_rng(2)
    assert refined(rng.normal(0.8, 0.06, 28), n=10_000).spread > 0.03


@given(st.floats(-0.5, 0.2))
def test_a_loss_from_the_first_day_is_not_learnt_as_the_level(shift: float) -> None:
    """The level follows the live panes by no more than what the reference may be off by."""
    now = refined(np.full(28, 0.8 + shift))
    known = math.hypot(now.spread * math.sqrt(stretch(now.memory, 14) / 14), SCALE / math.sqrt(1400))
    moved = (now.pane_value or 0.0) - 0.8
    assert abs(moved) <= min(MOST_SHIFT * known, abs(shift)) + 1e-9
    assert moved * shift >= 0
    assert now.value - 0.8 == pytest.approx(moved)


def test_refining_is_a_function_of_the_panes() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0.8, 0.03, 28)
    assert refined(values) == refined(values)
    assert refined_levels({"accuracy": level()}, ["accuracy"], StablePanes())["accuracy"] == level()


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_correlation_of_neighbours_is_found(memory: float) -> None:
    """Panes that follow their neighbours say less about a mean; with many panes it is seen how much."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(50):
        shocks = rng.normal(size=200)
        days = np.empty(200)
        days[0] = shocks[0]
        for day in range(1, 200):
            days[day] = memory * days[day - 1] + math.sqrt(1 - memory**2) * shocks[day]
        sizes = np.full(200, 10_000.0)
        found.append(between_panes(0.8 + 0.02 * days, sizes, SCALE, 0.02))
    assert np.mean([each.memory for each in found]) == pytest.approx(memory, abs=0.08)
    assert np.mean([each.spread for each in found]) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("memory", [0.0, 0.4, 0.9])
def test_stretch_is_the_variance_of_a_mean(memory: float) -> None:
    for panes in (1, 2, 7, 30):
        lags = np.abs(np.subtract.outer(np.arange(panes), np.arange(panes)))
        assert stretch(memory, panes) == pytest.approx((memory**lags).sum() / panes)
