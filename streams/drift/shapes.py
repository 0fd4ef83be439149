"""What no distance names: categories that came or went, values out of range, features that stand still or are scaled.

Two groups, because they call for different people. Categories and ranges belong to the drift of a feature: the world
may have changed. A feature that stands still, or whose values lie in another unit, is broken somewhere on its way.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from schemas.events import Severity
from streams import calibration as cal
from streams.drift.checks import Check
from streams.drift.table import Measured, SubjectTable
from streams.panes import COARSE

Floats = NDArray[np.float64]

LEAST_RATE: Final = 0.01
"""New categories and values out of range below this share beyond the usual are no news, however sure."""
LEAST_VANISHED: Final = 0.02
"""Share that a category must have had for its absence to be news."""
STUCK: Final = 0.999
"""Share of a window's values in one bin from which on a feature stands still; numbers have to be one and the same."""
MOST_TOP: Final = 0.8
"""Where a window of the reference held more than this in one bin, standing still is no news: a day has one weekday."""
LEAST_SPREAD: Final = 0.05
"""Share that the reference holds outside that bin, at least: a feature that hardly ever moves is not stuck."""
SCALE_SHIFT: Final = 8.0
"""Standard deviations of the reference between the means that no season brings, but another unit does."""
SCALE_OUTSIDE: Final = 0.5
"""Share of the values beyond the reference's range from which on a shift of the mean is not made by a few."""


class Sizes(NamedTuple):
    """Of a window and of the reference: how many independent values they are worth."""

    n: float
    m: float


class Usual(NamedTuple):
    """How the reference's own windows differ.

    Parameters
    ----------
    varies : float
        Variance of shares between them, in proportion to the share.
    windows : float
        How many there are.
    top : float
        Largest share that one bin had in any; 1 where nobody knows.
    """

    varies: float = 0.0
    windows: float = 1.0
    top: float = 1.0

    def sizes(self, n: float, m: float) -> Sizes:
        """How many independent values `n` of a window and `m` of the reference are worth.

        Notes
        -----
        A thousand flights share 24 hours of weather: shares that vary by v between windows vary as if each held 1 / v
        values, however many there are.

        References
        ----------
        Kish (1965), Survey sampling: the design effect.
        """
        return Sizes(1.0 / (1.0 / max(n, 1.0) + self.varies), 1.0 / (1.0 / max(m, 1.0) + self.varies / self.windows))


class Shapes:
    """Checks of the features of one table.

    Parameters
    ----------
    table : SubjectTable
        Of features and prediction.

    Notes
    -----
    The share of categories that the reference saw once is what unseen ones take next (Good).

    References
    ----------
    Good (1953), The population frequencies of species and the estimation of population parameters.
    """

    def __init__(self, table: SubjectTable) -> None:
        self.table = table
        rows = table.features
        subjects = [table.subjects[row] for row in rows]
        self.numeric = np.array([s.slots is not None and s.slots.numeric for s in subjects], dtype=bool)
        self._last = np.array([len(s.reference) - 1 for s in subjects], dtype=np.int64)
        n = table.reference_n[rows] if len(rows) else np.zeros(0)
        reference = table.reference[rows] if len(rows) else np.zeros((0, table.shape[1]))
        single = (reference == 1).sum(axis=1) if len(rows) else np.zeros(0)
        other = reference[np.arange(len(rows)), self._last] if len(rows) else np.zeros(0)
        self._rare: Floats = np.where(self.numeric, 0.0, (other + single) / np.maximum(n, 1.0))
        self._shares = reference / np.maximum(n, 1.0)[:, None]
        kept = self._shares.copy()
        if len(rows):
            kept[np.arange(len(rows)), self._last] = 0.0
        kept[self.numeric] = 0.0
        self._kept: Floats = kept
        self._categories = np.maximum((kept > 0).sum(axis=1), 1)

    def unusual(self, measured: Measured) -> tuple[list[int], list[int]]:
        """Rows of features that may cross a bound of their drift, and of those that may cross one of their quality.

        Notes
        -----
        A sieve, cheap and never too fine: bounds are computed for what stays in it.
        """
        rows = self.table.features
        n = measured.n[rows]
        enough = n >= cal.MINIMUM_TRAFFIC
        counts = measured.counts[rows]
        at_least = np.maximum(n, 1.0)
        outside = self._outside(measured, counts)
        rate = outside / at_least - self._rare >= LEAST_RATE * (1 - 1e-9)
        gone = ((counts == 0) & (self._kept >= LEAST_VANISHED)).any(axis=1)
        stuck = (counts.max(axis=1, initial=0.0) >= STUCK * n) & self._constant(measured, n)
        shift = np.abs(measured.rest[:, 4]) / COARSE / at_least
        scaled = self.numeric & (shift > SCALE_SHIFT) & (outside > SCALE_OUTSIDE * n)
        return rows[enough & (rate | gone)].tolist(), rows[enough & (stuck | scaled)].tolist()

    def _constant(self, measured: Measured, n: Floats) -> NDArray[np.bool_]:
        """Whether all numbers of a feature may be one; categories: their bin says it.

        Notes
        -----
        Equal numbers add equal integers to the sum, which n divides then; sums of others it divides once in n times.
        """
        whole = np.maximum(n, 1.0).astype(np.int64)
        return np.asarray(~self.numeric | (measured.rest[:, 4] % whole == 0))

    def _outside(self, measured: Measured, counts: Floats) -> Floats:
        """Values out of range, or in none of the kept categories."""
        other = counts[np.arange(len(counts)), self._last] if len(counts) else np.zeros(0)
        return np.where(self.numeric, measured.rest[:, 2] + measured.rest[:, 3], other)

    # -------------------------------------------------------------------------------------------- of drift

    def of_drift(self, measured: Measured, at: int, usual: Usual, p: float) -> list[Check]:
        """Checks of a feature that belong to its drift.

        Parameters
        ----------
        at : int
            Number of the feature in the table.
        usual : Usual
            How the reference's own windows differ.
        p : float
            Chance of a false crossing, of each.
        """
        row = int(self.table.features[at])
        n = int(measured.n[row])
        if n < cal.MINIMUM_TRAFFIC:
            return []
        counts = measured.counts[row]
        sizes = usual.sizes(n, float(self.table.reference_n[row]))
        low, high = (int(count) for count in measured.rest[at, 2:4])
        numeric = bool(self.numeric[at])
        outside = low + high if numeric else int(counts[self._last[at]])
        # Of a sample of m, the next value lies beyond the extremes twice in m + 1 times; a category it never saw, half
        # as often as one that it saw once.
        rate = 2.5 / (sizes.m + 2) if numeric else float(self._rare[at]) + 0.5 / (sizes.m + 1)
        checks = [
            Check(
                "out_of_range_rate" if numeric else "new_rate",
                outside / n,
                p,
                partial(_rate_bound, min(rate, 1.0), sizes),
                cal.unusable_severity,
                {"below": low, "above": high} if numeric else {"new": outside},
            )
        ]
        if not numeric:
            gone = (counts == 0) & (self._kept[at] >= LEAST_VANISHED)
            checks.append(
                Check(
                    "vanished_share",
                    float(self._kept[at][counts == 0].max(initial=0.0)),
                    p,
                    partial(_vanished_bound, sizes, int(self._categories[at])),
                    cal.unusable_severity,
                    {"vanished": int(gone.sum())},
                )
            )
        return checks

    # ------------------------------------------------------------------------------------------ of quality

    def of_quality(self, measured: Measured, at: int, usual: Usual, p: float) -> list[Check]:
        """Checks of a feature that tell that it is broken; parameters as of `of_drift`."""
        row = int(self.table.features[at])
        n = int(measured.n[row])
        if n < cal.MINIMUM_TRAFFIC:
            return []
        counts = measured.counts[row]
        bin_ = int(counts.argmax())
        share = float(self._shares[at][bin_])
        constant = not self.numeric[at] or int(measured.rest[at, 4]) % n == 0
        sizes = usual.sizes(n, float(self.table.reference_n[row]))
        checks = [
            Check(
                "stuck_share",
                float(counts[bin_]) / n if constant else 0.0,
                p,
                partial(_stuck_bound, share, sizes) if usual.top <= MOST_TOP else partial(_no_bound, share),
                _stuck_severity,
                {"bin": bin_},
            )
        ]
        if self.numeric[at]:
            outside = float(measured.rest[at, 2] + measured.rest[at, 3]) / n
            shift = abs(float(measured.rest[at, 4])) / COARSE / n if outside > SCALE_OUTSIDE else 0.0
            checks.append(Check("scale_shift", shift, p, _scale_bound, _critical, {"out_of_range": round(outside, 6)}))
        return checks


def _rate_bound(usual: float, sizes: Sizes, p: float) -> cal.Bound:
    """Bound of a share that is nearly nothing: the smallest count that is less likely than `p`."""
    error = math.sqrt(usual * (1 - usual) / sizes.m)
    highest = min(usual - float(special.ndtri(p / 2)) * error, 1.0)
    if highest >= 1.0:
        return cal.Bound(usual, 1.0, error, True)
    count = float(special.bdtrik(1 - p / 2, sizes.n, highest))
    share = 1.0 if math.isnan(count) else (math.floor(count) + 1) / sizes.n
    return cal.Bound(usual, min(max(share, usual + LEAST_RATE), 1.0), error, True)


def absence_log_p(share: float, sizes: Sizes) -> float:
    """Logarithm of the chance that a category of a share of the reference is not seen at all.

    Notes
    -----
    The reference is a sample: the true share has a beta distribution about it, the count a beta-binomial one.
    """
    a, b = share * sizes.m, (1 - share) * sizes.m
    if a <= 0:
        return 0.0
    if b <= 0:
        return -math.inf
    n = sizes.n
    return float(special.gammaln(b + n) + special.gammaln(a + b) - special.gammaln(b) - special.gammaln(a + b + n))


def _vanished_bound(sizes: Sizes, categories: int, p: float) -> cal.Bound:
    """The smallest share whose absence is less likely than `p` for any of so many categories."""
    # A share at the bound itself is news: values equal the least share of a vanished category, which must cross.
    return cal.Bound(0.0, max(_least_share(sizes, p / categories), LEAST_VANISHED * (1 - 1e-9)), 0.0, True)


def _least_share(sizes: Sizes, p: float) -> float:
    """The smallest share whose absence is less likely than `p`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if absence_log_p(middle, sizes) < math.log(p):
            high = middle
        else:
            low = middle
    return high


def _no_bound(usual: float, _: float) -> cal.Bound:
    """Beyond 1, where no share crosses."""
    return cal.Bound(usual, 2.0, 0.0, True)


def _stuck_bound(usual: float, sizes: Sizes, p: float) -> cal.Bound:
    """Crossed where (nearly) everything lies in one bin and that is less likely than `p`."""
    spread = max(_least_share(sizes, p), LEAST_SPREAD)
    # What the reference holds outside the bin may well be missing by chance.
    return cal.Bound(usual, STUCK - 1e-9, 0.0, True) if 1 - usual > spread else _no_bound(usual, p)


def _scale_bound(_: float) -> cal.Bound:
    return cal.Bound(0.0, SCALE_SHIFT, 0.0, True)


def _stuck_severity(bound: cal.Bound, value: float) -> Severity:
    """Severity by the spread that is lost."""
    return cal.unusable_severity(bound, value)


def _critical(bound: cal.Bound, value: float) -> Severity:
    return "critical"
