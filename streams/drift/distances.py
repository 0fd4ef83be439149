"""Distances between two distributions given as counts by bin or category."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

SMOOTHING = 0.5
"""Added to every bin: an empty bin must not make a distance infinite."""


def shares(counts: Counts | Floats) -> Floats:
    """Smoothed shares of the bins along the last axis."""
    smoothed = counts.astype(np.float64) + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=-1, keepdims=True), dtype=np.float64)


def psi(counts: Counts, reference: Counts) -> float:
    """Population stability index: the symmetric Kullback-Leibler divergence of smoothed shares.

    Examples
    --------
    >>> round(psi(np.array([100, 300]), np.array([200, 200])), 3)
    0.273
    """
    return float(psi_rows(counts[None, :], reference)[0])


def psi_rows(counts: Counts, reference: Counts | Floats) -> Floats:
    """`psi` of every row of `counts`."""
    p, q = shares(counts), shares(reference)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1), dtype=np.float64)


def psi_noise(bins: int, n: float, reference_n: float) -> float:
    """What PSI is on average between two samples of one distribution.

    Notes
    -----
    PSI of samples is about (1/n + 1/m) times a chi-squared variable with bins − 1 degrees of freedom.

    References
    ----------
    Yurdakul (2018), Statistical properties of population stability index.
    """
    return (bins - 1) * (1.0 / max(n, 1.0) + 1.0 / max(reference_n, 1.0))


def jensen_shannon(counts: Counts, reference: Counts) -> float:
    """Jensen-Shannon distance (root of the divergence, base 2), 0–1."""
    p, q = shares(counts), shares(reference)
    middle = (p + q) / 2
    divergence = 0.5 * (p * np.log2(p / middle)).sum() + 0.5 * (q * np.log2(q / middle)).sum()
    return math.sqrt(max(float(divergence), 0.0))


def kolmogorov_smirnov(counts: Counts, reference: Counts) -> float:
    """Largest gap between the two cumulative shares at the bin edges, 0–1 (not smoothed)."""
    p = np.cumsum(counts) / max(int(counts.sum()), 1)
    q = np.cumsum(reference) / max(int(reference.sum()), 1)
    return float(np.abs(p - q).max()) if len(p) else 0.0


def wasserstein(counts: Counts, reference: Counts, centres: Floats, scale: float) -> float:
    """First Wasserstein distance of binned numbers, in standard deviations of the reference.

    Parameters
    ----------
    centres : array of float
        Representative value of every bin, ascending.
    scale : float
        Standard deviation of the reference.
    """
    p = np.cumsum(counts) / max(int(counts.sum()), 1)
    q = np.cumsum(reference) / max(int(reference.sum()), 1)
    return float((np.abs(p - q)[:-1] * np.diff(centres)).sum() / scale) if scale > 0 else 0.0


def chi_squared_p(counts: Counts, reference: Counts) -> float:
    """p-value of the chi-squared test that two samples share one distribution (bins that both lack are left out)."""
    from scipy.special import chdtrc

    used = (counts + reference) > 0
    a, b = counts[used].astype(np.float64), reference[used].astype(np.float64)
    if len(a) < 2 or a.sum() == 0 or b.sum() == 0:
        return 1.0
    ratio = math.sqrt(b.sum() / a.sum())
    statistic = float(((a * ratio - b / ratio) ** 2 / (a + b)).sum())
    return float(chdtrc(len(a) - 1, statistic))


def kolmogorov_smirnov_p(distance: float, n: float, reference_n: float) -> float:
    """Asymptotic p-value of a two-sample Kolmogorov-Smirnov distance (conservative for binned numbers)."""
    from scipy.special import kolmogorov

    if n <= 0 or reference_n <= 0:
        return 1.0
    effective = n * reference_n / (n + reference_n)
    return float(min(1.0, kolmogorov(math.sqrt(effective) * distance)))
