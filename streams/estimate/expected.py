"""Metrics that score histograms promise: their expectation, and how each depends on the hits of a bin.

The expectation is over the unknown labels, given the predictions of a window: in bin b, `n[b]` events of which a share
`p[b]` is expected to be hits (binary: positives; multiclass: right decisions). Metrics that are ratios are ratios of
expectations. Several windows are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from streams.columns import Floats


class Scores(NamedTuple):
    """Score histograms.

    Parameters
    ----------
    n : array, shape (windows, bins)
        Events, bins ascending in score; some in every window.
    p : array, shape (bins,) or (windows, bins)
        Probability that an event of the bin is a hit.
    score : array, shape (bins,)
        Score that stands for the bin.
    decided : array, shape (windows, bins)
        Share of the bin's events that are decided positive.
    prices : tuple of float
        Of a false negative and of a false positive.
    """

    n: Floats
    p: Floats
    score: Floats
    decided: Floats
    prices: tuple[float, float] = (0.0, 0.0)


class Expected(NamedTuple):
    """Expected values of a metric, shape (windows,), and their change with one more hit, shape (windows, bins).

    Not finite where the metric is not defined.
    """

    value: Floats
    slope: Floats


class _Sums(NamedTuple):
    """What several metrics need: events, hits by bin and in all, each with a last axis."""

    events: Floats
    hits: Floats
    total: Floats


def decided_share(n: Floats, positive: Floats) -> Floats:
    """Share of each bin decided positive, where the `positive` events with the highest scores are.

    Examples
    --------
    >>> decided_share(np.array([[4.0, 4.0, 2.0]]), np.array([4.0])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    up_to = n.cumsum(axis=-1)
    # Of the events from a bin on, `positive` are taken, the highest first.
    left = up_to + (positive - up_to[:, -1])[:, None]
    return np.asarray(np.minimum(np.maximum(left, 0.0), n) / np.maximum(n, 1.0))


def _accuracy(of: Scores, sums: _Sums) -> Expected:
    slope = (2 * of.decided - 1) / sums.events
    right = (of.n * (1 - of.decided)).sum(axis=-1) / sums.events[:, 0]
    return Expected(right + (sums.hits * slope).sum(axis=-1), slope)


def _hits(of: Scores, sums: _Sums) -> Expected:
    return Expected(sums.total[:, 0] / sums.events[:, 0], np.broadcast_to(1 / sums.events, of.n.shape))


def _brier(of: Scores, sums: _Sums) -> Expected:
    s = of.score
    slope = (1 - 2 * s) / sums.events
    return Expected((of.n @ (s * s)) / sums.events[:, 0] + (sums.hits * slope).sum(axis=-1), slope)


def _log_loss(of: Scores, sums: _Sums) -> Expected:
    miss = -np.log1p(-of.score)
    slope = (-np.log(of.score) - miss) / sums.events
    return Expected((of.n @ miss) / sums.events[:, 0] + (sums.hits * slope).sum(axis=-1), slope)


def _precision(of: Scores, sums: _Sums) -> Expected:
    decided = (of.n * of.decided).sum(axis=-1, keepdims=True)
    slope = of.decided / decided
    return Expected((sums.hits * slope).sum(axis=-1), slope)


def _recall(of: Scores, sums: _Sums) -> Expected:
    value = (sums.hits * of.decided).sum(axis=-1, keepdims=True) / sums.total
    return Expected(value[:, 0], (of.decided - value) / sums.total)


def _f1(of: Scores, sums: _Sums) -> Expected:
    both = (of.n * of.decided).sum(axis=-1, keepdims=True) + sums.total
    value = 2 * (sums.hits * of.decided).sum(axis=-1, keepdims=True) / both
    return Expected(value[:, 0], (2 * of.decided - value) / both)


def _cost(of: Scores, sums: _Sums) -> Expected:
    missed, alarmed = of.prices
    slope = (missed * (1 - of.decided) - alarmed * of.decided) / sums.events
    of_misses = alarmed * (of.n * of.decided).sum(axis=-1) / sums.events[:, 0]
    return Expected(of_misses + (sums.hits * slope).sum(axis=-1), slope)


def _roc_auc(of: Scores, sums: _Sums) -> Expected:
    """Ratio of expected pairs ranked right to expected pairs; an event makes no pair with itself."""
    hits, misses = sums.hits, of.n - sums.hits
    rest = sums.events - sums.total
    own = (hits * (1 - of.p)).sum(axis=-1, keepdims=True)
    pairs = sums.total * rest - own
    pairs = np.where(pairs > 1e-9 * sums.events, pairs, np.nan)
    below = misses.cumsum(axis=-1) - misses / 2
    value = ((hits * below).sum(axis=-1, keepdims=True) - own / 2) / pairs
    slope = (below + hits.cumsum(axis=-1) - hits / 2 - (sums.total + value * (rest - sums.total))) / pairs
    return Expected(np.minimum(np.maximum(value[:, 0], 0.0), 1.0), slope)


def _pr_auc(of: Scores, sums: _Sums) -> Expected:
    hits, n = sums.hits[:, ::-1], of.n[:, ::-1]
    shown = np.maximum(n.cumsum(axis=-1), 1e-300)
    precision = hits.cumsum(axis=-1) / shown
    value = (hits * precision).sum(axis=-1, keepdims=True) / sums.total
    later = (hits / shown)[:, ::-1].cumsum(axis=-1)
    return Expected(value[:, 0], (precision[:, ::-1] + later - value) / sums.total)


BINARY: Final[Mapping[str, Callable[[Scores, _Sums], Expected]]] = {
    "accuracy": _accuracy,
    "roc_auc": _roc_auc,
    "pr_auc": _pr_auc,
    "log_loss": _log_loss,
    "brier": _brier,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "cost": _cost,
}
MULTICLASS: Final[Mapping[str, Callable[[Scores, _Sums], Expected]]] = {"accuracy": _hits}


def expected(task: str, of: Scores, names: Iterable[str]) -> dict[str, Expected]:
    """Expected metrics of windows.

    Parameters
    ----------
    task : str
        ``binary`` or ``multiclass``.
    of : Scores
    names : iterable of str
        Of `BINARY` or `MULTICLASS`.
    """
    known = BINARY if task == "binary" else MULTICLASS
    hits = of.n * of.p
    sums = _Sums(of.n.sum(axis=-1, keepdims=True), hits, hits.sum(axis=-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: known[name](of, sums) for name in names}
