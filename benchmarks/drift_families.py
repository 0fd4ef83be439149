"""Distributions of many kinds and what may become of them: how near published distances come to those of raw values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

FAMILIES: Final[Mapping[str, Draw]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 0.6, n),
    "lognormal, long": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "uniform": lambda rng, n: rng.random(n),
    "two hills": lambda rng, n: rng.normal(size=n) + 4.0 * (rng.random(n) < 0.5),
    "student, 3": lambda rng, n: rng.standard_t(3, n),
    "u-shaped": lambda rng, n: rng.beta(0.5, 0.5, n),
    "half zeros": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
    "counts, few": lambda rng, n: rng.poisson(3.0, n).astype(np.float64),
    "counts, many": lambda rng, n: rng.poisson(20.0, n).astype(np.float64),
    "rounded": lambda rng, n: np.round(rng.normal(50.0, 10.0, n)),
}
WHOLE: Final = ("counts, few", "counts, many", "rounded")
"""Whole numbers stay whole when they move."""
CHANGES: Final = (
    "same", "shift -0.4", "shift 0.1", "shift 0.4", "shift 1", "scale 0.7", "scale 1.5", "scale 2", "times 1.3",
    "tails", "stretched above", "thinned", "one value",
)  # fmt: skip


def windows(reference: Floats, family: str, n: int, rng: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    """A window of about `n` values for every change.

    Parameters
    ----------
    reference : array
        Values that changes are measured by: a shift is in their standard deviations.
    family : str
        Of `FAMILIES`; half zeros are only multiplied, so that they stay zeros.

    Notes
    -----
    ``tails``: one value in twenty lies four times as far from the mean. ``stretched above``: beyond the 90 % quantile
    distances double. ``thinned``: of the values above the 40 % quantile every other one is gone. ``one value``: every
    fifth is the 63 % quantile.
    """
    mean, spread = float(reference.mean()), float(reference.std())
    low, top, one = np.quantile(reference, [0.4, 0.9, 0.63])
    for change in CHANGES:
        kind, _, amount = change.rpartition(" ")
        if family == "half zeros" and kind in {"shift", "scale"}:
            continue
        x = FAMILIES[family](rng, n)
        if kind == "shift":
            x = x + float(amount) * spread
        elif kind == "scale":
            x = mean + (x - mean) * float(amount)
        elif kind == "times":
            x = x * float(amount)
        elif change == "tails":
            x = np.where(rng.random(n) < 0.05, mean + (x - mean) * 4.0, x)
        elif change == "stretched above":
            x = np.where(x > top, top + (x - top) * 2.0, x)
        elif change == "thinned":
            x = x[(x < low) | (rng.random(n) < 0.5)]
        elif change == "one value":
            x = np.where(rng.random(n) < 0.2, one, x)
        yield change, np.round(x) if family in WHOLE else x


def exact(reference: Floats, window: Floats, edges: Floats) -> dict[str, float]:
    """KS and Wasserstein (in standard deviations of the reference) of raw values; PSI, Jensen-Shannon of bins."""
    from scipy import stats
    from scipy.spatial.distance import jensenshannon

    p, q = (
        np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) / len(x)
        for x in (window, reference)
    )
    return {
        "ks": float(stats.ks_2samp(window, reference, method="asymp").statistic),
        "wasserstein": float(stats.wasserstein_distance(window, reference) / reference.std()),
        "jensen_shannon": float(jensenshannon(p, q, base=2)),
        "psi": float(((p - q) * np.log(p / q)).sum()) if p.all() and q.all() else float("nan"),
    }
