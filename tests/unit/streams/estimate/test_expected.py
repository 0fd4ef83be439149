"""Expected metrics against the catalogue's own, against numerical slopes and against simulated labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.estimate.expected import BINARY, Scores, decided_share, expected
from streams.metrics.ranking import average_precision, roc_auc

PRICES = (5.0, 1.0)
NAMES = tuple(BINARY)
Floats = NDArray[np.float64]


def one(n: Floats, p: Floats, score: Floats, positive: float) -> Scores:
    """A single window with `positive` events decided so."""
    return Scores(n[None], p, score, decided_share(n[None], np.array([positive])), PRICES)


def value_of(of: Scores, names: tuple[str, ...] = NAMES) -> dict[str, tuple[float, Floats]]:
    """Value and slopes of the metrics that the window defines."""
    found = expected("binary", of, names)
    return {name: (float(e.value[0]), e.slope[0]) for name, e in found.items() if np.isfinite(e.value[0])}


def realised(of: Scores, hits: Floats) -> dict[str, float | None]:
    """Metrics of known labels, by the functions that monitoring uses (those without bins by their definition)."""
    n, s, share = of.n[0], of.score, of.decided[0]
    found, decided = float((hits * share).sum()), float((n * share).sum())
    missed, alarmed = float(hits.sum()) - found, decided - found
    miss = n - hits
    return {
        "accuracy": 1 - (missed + alarmed) / float(n.sum()),
        "precision": found / decided if decided else None,
        "recall": found / hits.sum() if hits.sum() else None,
        "f1": 2 * found / (decided + hits.sum()) if decided + hits.sum() else None,
        "cost": (PRICES[0] * missed + PRICES[1] * alarmed) / float(n.sum()),
        "brier": float((hits * (1 - s) ** 2 + miss * s**2).sum() / n.sum()),
        "log_loss": float(-(hits * np.log(s) + miss * np.log(1 - s)).sum() / n.sum()),
        "roc_auc": roc_auc(hits, miss),  # type: ignore[arg-type]
        "pr_auc": average_precision(hits, miss),  # type: ignore[arg-type]
    }


@st.composite
def histograms(draw: st.DrawFn, least: int = 0) -> Scores:
    size = draw(st.integers(2, 12))
    n = np.array(draw(st.lists(st.integers(least, 50), min_size=size, max_size=size)), dtype=np.float64)
    hits = np.array([draw(st.integers(0, int(count))) for count in n], dtype=np.float64)
    p = np.divide(hits, n, out=np.full(size, 0.5), where=n > 0)
    score = (np.arange(size) + 0.5) / size
    return one(n, p, score, float(draw(st.integers(0, int(n.sum())))))


@given(histograms())
def test_exact_where_calibration_is_exact(of: Scores) -> None:
    if not of.n.sum():
        return
    exact = realised(of, of.n[0] * of.p)
    found = value_of(of)
    assert {"accuracy", "brier", "log_loss", "cost"} <= set(found)
    for name, (value, slope) in found.items():
        assert np.isfinite(slope).all()
        if name != "roc_auc":  # an event makes no pair with itself: below
            assert value == pytest.approx(exact[name], abs=1e-9), name
        else:
            assert 0.0 <= value <= 1.0


@settings(max_examples=50)
@given(histograms(least=1), st.data())
def test_slopes_are_those_of_the_metric(of: Scores, data: st.DataObject) -> None:
    bin_ = data.draw(st.integers(0, of.n.shape[1] - 1))
    h = 1e-4
    up, down = of.p.copy(), of.p.copy()
    up[bin_] += h / of.n[0, bin_]
    down[bin_] -= h / of.n[0, bin_]
    found = value_of(of)
    above, below = value_of(of._replace(p=up)), value_of(of._replace(p=down))
    for name in set(found) & set(above) & set(below) - {"roc_auc", "recall", "pr_auc"}:
        numeric = (above[name][0] - below[name][0]) / (2 * h)
        assert found[name][1][bin_] == pytest.approx(numeric, abs=1e-4, rel=1e-3), name


def _smooth() -> Scores:
    score = (np.arange(20) + 0.5) / 20
    return one(np.full(20, 40.0), score**1.3, score, 300.0)


def test_slopes_of_rankings() -> None:
    of = _smooth()
    found = value_of(of)
    for bin_ in range(20):
        p = of.p.copy()
        p[bin_] += 1e-4 / of.n[0, bin_]
        other = value_of(of._replace(p=p))
        for name in ("roc_auc", "recall", "pr_auc"):
            numeric = (other[name][0] - found[name][0]) / 1e-4
            assert found[name][1][bin_] == pytest.approx(numeric, abs=2e-5), (name, bin_)


def test_mean_and_scatter_are_those_of_drawn_labels() -> None:
    of = _smooth()
    rng = np.random.default_rng(5)
    drawn = [realised(of, rng.binomial(of.n[0].astype(int), of.p).astype(np.float64)) for _ in range(3000)]
    chance = of.n[0] * of.p * (1 - of.p)
    for name, (value, slope) in value_of(of).items():
        values = np.array([draw[name] for draw in drawn], dtype=np.float64)
        error = float(np.sqrt((slope**2 * chance).sum()))
        assert value == pytest.approx(values.mean(), abs=4 * error / np.sqrt(3000) + error / 20), name
        assert error == pytest.approx(values.std(), rel=0.1), name


@settings(max_examples=30)
@given(st.lists(histograms(least=1), min_size=1, max_size=4))
def test_windows_together_are_as_each_alone(windows: list[Scores]) -> None:
    size = min(of.n.shape[1] for of in windows)
    p, score = windows[0].p[:size], windows[0].score[:size]
    n = np.concatenate([of.n[:, :size] for of in windows])
    positive = np.arange(len(windows)) * 3.0
    together = expected("binary", Scores(n, p, score, decided_share(n, positive), PRICES), NAMES)
    for row in range(len(windows)):
        alone = expected("binary", one(n[row], p, score, float(positive[row])), NAMES)
        for name in NAMES:
            assert together[name].value[row] == pytest.approx(alone[name].value[0], nan_ok=True), name


def test_multiclass_accuracy_is_the_share_of_hits() -> None:
    n, p = np.array([[10.0, 30.0]]), np.array([0.5, 0.9])
    of = Scores(n, p, np.array([0.4, 0.8]), np.ones((1, 2)))
    assert expected("multiclass", of, ["accuracy"])["accuracy"].value.tolist() == pytest.approx([0.8])
