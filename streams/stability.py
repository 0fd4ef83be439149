"""Whether some days are alike enough to be what all later ones are compared with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.drift.distances import psi, psi_noise

MOST_TIMES: Final = 5.0
"""Traffic of a day against the median day: more, or less than a fifth, is another state of things."""
CHANCE: Final = 0.001
"""How rarely days that are alike are called different in quality."""
LEAST_DIFFERENCE: Final = 0.02
"""Relative difference in quality between the halves below which it does not matter, however sure it is."""
MOST_PSI: Final = 0.25
"""Distance between the predictions of the halves, beyond chance; the usual bound for "has shifted"."""
LEAST_DAYS: Final = 3
"""Days with a value that a half needs to be compared."""


class Day(NamedTuple):
    """One day: predictions, and the primary metric where there are enough labels."""

    name: str
    n: int
    quality: float | None


def instability(days: Sequence[Day], first: NDArray[np.int64], second: NDArray[np.int64]) -> str | None:
    """What differs among the days, in words; None where they are stable.

    Parameters
    ----------
    days : sequence of Day
        In order, without gaps.
    first, second : array of int
        Predictions of the first and of the second half by bin.

    Examples
    --------
    >>> alike = np.array([50, 50])
    >>> instability([Day(f"d{i}", 100, 0.8) for i in range(6)], alike, alike)
    >>> instability([Day(f"d{i}", 100 if i else 3, 0.8) for i in range(6)], alike, alike)
    'traffic: 3 predictions on d0, 100 on a usual day'
    """
    usual = float(np.median([day.n for day in days]))
    for day in days:
        if day.n == 0 or not usual / MOST_TIMES <= day.n <= usual * MOST_TIMES:
            return f"traffic: {day.n} predictions on {day.name}, {usual:g} on a usual day"
    half = len(days) // 2
    before, after = ([day.quality for day in part if day.quality is not None] for part in (days[:half], days[half:]))
    if min(len(before), len(after)) >= LEAST_DAYS:
        low, high = float(np.mean(before)), float(np.mean(after))
        scale = max(abs(low), abs(high))
        if abs(low - high) > LEAST_DIFFERENCE * scale and _differ(before, after):
            return f"quality: {low:.4g} in the first half, {high:.4g} in the second"
    if first.sum() and second.sum():
        distance = float(psi(first, second))
        if distance > MOST_PSI + psi_noise(len(first), float(first.sum()), float(second.sum())):
            return f"predictions: PSI {distance:.2f} between the halves"
    return None


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Welch's test on the days' values."""
    from scipy.stats import ttest_ind

    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return True
    return bool(ttest_ind(one, other, equal_var=False).pvalue < CHANCE)
