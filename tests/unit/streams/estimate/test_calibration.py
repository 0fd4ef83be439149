"""The calibration: fitted, followed, sure of what it saw and of no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.estimate.calibration import (
    Bins,
    Calibration,
    CalibrationState,
    bin_scores,
    fit,
    hats,
    kept_of,
    knots_of,
    logits,
    shares,
    smoothness,
)
from streams.panes import score_edges

SCORE = bin_scores(np.asarray(score_edges(None)))
LOGIT = logits(SCORE)
DAY = 86_400_000


def _day(rng: np.random.Generator, n: int, *, level: float = 0.0, slope: float = 1.0) -> tuple[NDArray, NDArray]:
    """Events and hits by bin; logit of the truth = level + slope × logit of the score."""
    at = rng.normal(-1.0, 1.5, n)
    bins = np.searchsorted((LOGIT[1:] + LOGIT[:-1]) / 2, at)
    hit = rng.random(n) < shares(level + slope * LOGIT[bins])
    size = len(LOGIT)
    return np.bincount(bins, minlength=size).astype(float), np.bincount(bins[hit], minlength=size).astype(float)


def _fitted(days: list[tuple[NDArray, NDArray]]) -> tuple[Calibration, NDArray]:
    n, hits = (np.stack(parts) for parts in zip(*days, strict=True))
    knots = knots_of(SCORE, n.sum(axis=0))
    basis = hats(np.asarray(knots), LOGIT)
    return Calibration(smoothness(len(knots)), fit(basis, LOGIT, n=n, hits=hits)), basis


def test_knots_say_all_there_is_to_say() -> None:
    knots = np.array([-2.0, 0.0, 3.0])
    basis = hats(knots, np.array([-9.0, -2.0, -1.0, 0.0, 3.0, 99.0]))
    assert basis.sum(axis=1) == pytest.approx(np.ones(6))
    assert basis[0].tolist() == [1.0, 0.0, 0.0]
    assert basis[2].tolist() == [0.5, 0.5, 0.0]
    assert basis[5].tolist() == [0.0, 0.0, 1.0]
    assert hats(np.array([1.0]), np.array([0.0, 5.0])).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(("level", "slope"), [(0.0, 1.0), (0.7, 1.0), (-0.5, 0.6), (0.3, 1.6)])
def test_finds_the_truth_behind_the_scores(level: float, slope: float) -> None:
    rng = np.random.default_rng(1)
    found, basis = _fitted([_day(rng, 3000, level=level, slope=slope) for _ in range(10)])
    middle = (SCORE > 0.02) & (SCORE < 0.8)
    p = found.probabilities(basis, LOGIT)
    assert np.abs(p - shares(level + slope * LOGIT))[middle].max() < 0.04


def test_sure_scores_that_are_often_wrong() -> None:
    n, hits = np.zeros(len(SCORE)), np.zeros(len(SCORE))
    n[[0, -1]] = 5000.0
    hits[0], hits[-1] = 500.0, 4500.0
    found, basis = _fitted([(n, hits)])
    assert found.probabilities(basis, LOGIT)[[0, -1]] == pytest.approx([0.1, 0.9], abs=0.01)


def test_follows_a_shift_and_forgets_the_reference() -> None:
    rng = np.random.default_rng(2)
    found, basis = _fitted([_day(rng, 1000) for _ in range(14)])
    before = found.probabilities(basis, LOGIT)
    for _ in range(60):
        n, hits = _day(rng, 1000, level=1.0)
        found.learn(Bins(basis, LOGIT, n, hits), kept_of(DAY))
    middle = (SCORE > 0.05) & (SCORE < 0.7)
    truth = shares(1.0 + LOGIT)
    assert np.abs(before - truth)[middle].min() > 0.02
    assert np.abs(found.probabilities(basis, LOGIT) - truth)[middle].max() < 0.05


def test_a_pane_is_one_draw_of_its_day_whatever_its_size() -> None:
    rng = np.random.default_rng(3)
    days = [_day(rng, 2000, level=float(rng.normal(0, 0.5))) for _ in range(20)]
    found, basis = _fitted(days)
    assert found.spread2 == pytest.approx(0.25, rel=0.6)
    before = found.offsets.copy()
    n, hits = _day(rng, 1_000_000, level=1.5)
    found.learn(Bins(basis, LOGIT, n, hits), kept_of(DAY))
    assert 0.0 < float((found.offsets - before).mean()) < 0.3
    steady, _ = _fitted([_day(rng, 2000) for _ in range(20)])
    assert steady.spread2 < 0.02
    assert float(found.covariance(1.0).mean()) > float(steady.covariance(1.0).mean())


def test_panes_add_up_in_any_order() -> None:
    rng = np.random.default_rng(4)
    days = [_day(rng, 500) for _ in range(4)]
    found, basis = _fitted(days)
    a, b = Bins(basis, LOGIT, *days[0]), Bins(basis, LOGIT, *days[1])
    both = Bins(basis, LOGIT, a.n + b.n, a.hits + b.hits)
    one, other = found.says(both), found.says(Bins(basis, LOGIT, b.n + a.n, b.hits + a.hits))
    assert one.information.tolist() == other.information.tolist()
    assert one.precision == pytest.approx(found.says(a).precision + found.says(b).precision)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 475), st.integers(0, 10**6), st.floats(0, 1)), max_size=5),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([3_600_000, DAY, 30 * DAY]),
)
def test_stays_finite_and_small_and_goes_on_from_its_state(
    panes: list[list[tuple[int, int, float]]], pane_ms: int
) -> None:
    rng = np.random.default_rng(0)
    found, basis = _fitted([_day(rng, 300) for _ in range(3)])
    reference, prior, knots = found.state(), smoothness(basis.shape[1]), basis.shape[1]
    copy = Calibration(prior, reference)
    size = len(LOGIT)
    for pane in panes:
        n, hits = np.zeros(size), np.zeros(size)
        for bin_, events, share in pane:
            n[bin_ % size] += events
            hits[bin_ % size] += round(events * share)
        found.learn(Bins(basis, LOGIT, n, hits), kept_of(pane_ms))
        data = copy.state().pack()
        copy = Calibration(prior, reference, CalibrationState.unpack(data, knots))
        copy.learn(Bins(basis, LOGIT, n, hits), kept_of(pane_ms))
        assert len(data) <= 8 * (8 + 36 + 4)
    assert copy.state().pack() == found.state().pack()
    assert CalibrationState.unpack(copy.state().pack(), knots + 1) is None
    p = found.probabilities(basis, LOGIT)
    assert np.isfinite(p).all()
    assert ((p >= 0) & (p <= 1)).all()
    spread = found.covariance(1.0)
    assert np.isfinite(spread).all()
    assert np.linalg.eigvalsh(spread).min() > -1e-9
