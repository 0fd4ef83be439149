"""How likely a change for the worse is without one: the p-value of detectors that have none of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import special

LEAST_AFTER: Final = 3
"""Panes after a split, at least: two odd ones are no change."""
LEAST_BEFORE: Final = 10
CUT: Final = 3.0
"""Standard errors up to which a pane's loss counts: beyond, tails say more about days than about changes."""
SKEW: Final = 1.0
"""Skewness that is allowed for in what was cut."""


def change_p(losses: Sequence[float], own_share: float) -> float:
    """Chance per pane that some split of stationary losses shows so large a change for the worse.

    Parameters
    ----------
    losses : sequence of float
        By pane, the newest last, in standard errors that allow for correlation of neighbours.
    own_share : float
        What of that variance a single pane shows (0–1]: the rest is correlation, which shows only in sums.

    Returns
    -------
    float
        1 of too few panes.

    Notes
    -----
    The larger mean after a split than before it, in standard errors of the difference: Student's t, because the
    reference may know its spread badly (the losses' own counts where it is larger), with Cornish and Fisher's first
    term for skewness, and times the number of splits (Bonferroni). It bounds the chance of an alarm with such a p-value
    whichever detector raised it. Seeded, 970,000 panes each: at most x in 0.04 x of the panes of normal losses, 0.15 x
    of exponential ones whose spread the reference knew to two thirds, 0.75 x of losses of correlation 0.6 where it
    knew of 1/3 (for x from 1e-2 to 1e-4; smaller ones in one or two streams).

    Examples
    --------
    >>> calm = [0.5, -0.5] * 10
    >>> change_p(calm, 1.0), change_p([*calm, *[3.0] * 10], 1.0) < 1e-4
    (1.0, True)
    """
    n = len(losses)
    if n < LEAST_BEFORE + LEAST_AFTER or own_share <= 0:
        return 1.0
    values = np.clip(np.asarray(losses, dtype=np.float64), -CUT, CUT)
    sums, squares = np.cumsum(values), float((values * values).sum())
    split = np.arange(LEAST_BEFORE, n - LEAST_AFTER + 1)
    after = n - split
    before_mean = sums[split - 1] / split
    after_mean = (sums[-1] - sums[split - 1]) / after
    inside = (squares - split * before_mean**2 - after * after_mean**2) / (n - 2)
    variance = np.maximum(inside / min(own_share, 1.0), 1.0)
    t = (after_mean - before_mean) / np.sqrt(variance * (1 / after + 1 / split))
    tail = SKEW / np.sqrt(after) / 6
    normal = np.where(t > 1, (np.sqrt(1 + 4 * tail * (np.maximum(t, 1) + tail)) - 1) / (2 * tail), t)
    least = float(special.stdtr(n - 2, -normal).min())
    return min(len(split) * least, 1.0) if math.isfinite(least) else 1.0
