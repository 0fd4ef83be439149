"""Which distance decides about drift, and what chance does to each: the same threshold's machinery for all of them.

Every measure is taken to a scale on which chance adds ``noise × (1/n + 1/m)`` and scatters like a scaled chi-squared
variable: that of PSI. What days differ by of themselves is learnt on that scale, thresholds are drawn on it, and both
are told in the measure's own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.specification import DriftMeasure
from streams.drift.distances import shares

Floats = NDArray[np.float64]

MEASURES: Final[tuple[DriftMeasure, ...]] = ("psi", "jensen_shannon", "chi2", "ks", "wasserstein")
_OF_CATEGORIES: Final[dict[DriftMeasure, DriftMeasure]] = {"ks": "chi2", "wasserstein": "jensen_shannon"}
"""What stands in where bins have no order."""
_BITS: Final = 8 * math.log(2)
"""Eight times the Jensen-Shannon divergence in nats is PSI, where both are small."""


class Scale(NamedTuple):
    """A measure's way to the common scale and back; `least`: smallest excess over the usual that is news."""

    forth: Callable[[float], float]
    back: Callable[[float], float]
    least: float


def _same(value: float) -> float:
    return value


SCALES: Final[dict[DriftMeasure, Scale]] = {
    "psi": Scale(_same, _same, 0.05),
    "chi2": Scale(_same, _same, 0.05),
    "jensen_shannon": Scale(lambda v: _BITS * v * v, lambda t: math.sqrt(t / _BITS), 0.08),
    "ks": Scale(lambda v: v * v, math.sqrt, 0.08),
    "wasserstein": Scale(lambda v: v * v, math.sqrt, 0.15),
}


def measure_of(chosen: DriftMeasure, *, ordered: bool) -> DriftMeasure:
    """The measure of a subject; categories know no Kolmogorov-Smirnov and no Wasserstein distance.

    Examples
    --------
    >>> measure_of("ks", ordered=True), measure_of("ks", ordered=False)
    ('ks', 'chi2')
    """
    return chosen if ordered else _OF_CATEGORIES.get(chosen, chosen)


def noise_of(measure: DriftMeasure, reference: Floats, gaps: Floats | None = None) -> tuple[float, float]:
    """What chance adds on the common scale, times (1/n + 1/m), and the degrees of freedom of its scatter.

    Parameters
    ----------
    reference : array
        Counts of the reference by bin.
    gaps : array, optional
        Distances between the bins' centres in standard deviations, one fewer than bins; for Wasserstein.

    Notes
    -----
    The cumulative shares of a sample are a Brownian bridge at the bin edges. Of the square of its largest value
    (Kolmogorov's distribution) the mean is π²/12, and a chi-squared variable with 3 degrees of freedom has the longer
    tail. Of the Wasserstein distance the square's mean is a sum over pairs of edges, its scatter that of one variable
    at most.
    """
    bins = max(int((reference > 0).sum()), 2)
    if measure == "ks":
        return math.pi**2 / 12, 3.0
    if measure == "wasserstein" and gaps is not None and len(gaps):
        total = max(float(reference.sum()), 1.0)
        level = np.clip(np.cumsum(reference)[:-1] / total, 0.0, 1.0)
        spread = np.sqrt(level * (1 - level))
        covariance = np.minimum.outer(level, level) - np.outer(level, level)
        scale = np.outer(spread, spread)
        rho = np.clip(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)
        products = 2 / math.pi * (np.sqrt(1 - rho * rho) + rho * np.arcsin(rho)) * scale
        return max(float(gaps @ products @ gaps), 1e-12), 1.0
    return bins - 1.0, bins - 1.0


def rows_of(measure: DriftMeasure, counts: Floats, reference: Floats, gaps: Floats | None = None) -> Floats:
    """The measure of every row of counts, on the common scale; shape (rows,)."""
    p, q = shares(counts), shares(reference)
    if measure == "psi":
        return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))
    if measure == "jensen_shannon":
        middle = (p + q) / 2
        divergence = (p * np.log(p / middle)).sum(axis=-1) + (q * np.log(q / middle)).sum(axis=-1)
        return np.asarray(4 * np.maximum(divergence, 0.0))
    n = counts.sum(axis=-1, keepdims=True)
    m = max(float(reference.sum()), 1.0)
    if measure == "chi2":
        return chi2_rows(counts, reference)
    gap = np.abs(np.cumsum(counts, axis=-1) / np.maximum(n, 1.0) - np.cumsum(reference) / m)
    if measure == "ks" or gaps is None:
        return np.asarray(gap.max(axis=-1) ** 2)
    return np.asarray((gap[..., :-1] @ gaps) ** 2)


def chi2_rows(counts: Floats, reference: Floats) -> Floats:
    """Pearson's statistic of homogeneity times (1/n + 1/m): a distance, where the statistic grows with the sample."""
    n, m = counts.sum(axis=-1, keepdims=True), reference.sum(axis=-1, keepdims=True)
    p, q = counts / np.maximum(n, 1.0), reference / np.maximum(m, 1.0)
    pooled = (counts + reference) / np.maximum(n + m, 1.0)
    return np.asarray(np.divide((p - q) ** 2, pooled, out=np.zeros_like(p), where=pooled > 0).sum(axis=-1))
