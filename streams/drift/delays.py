"""Label delay per pane against the version's first stable panes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Final

import msgspec
from scipy import special

from schemas.events import Severity
from streams.calibration import Bound

STABLE_PANES: Final = 14
"""Panes that the usual delay is learnt from; it stays from there on."""
KNOWN_PANES: Final = 7
"""Panes from which on it is compared with."""
PRIOR_PANES: Final = 3
PRIOR_SPREAD: Final = 0.2
"""Scatter, as a logarithm, that is assumed of so many panes."""
LEAST_FACTOR: Final = 1.5
LEAST_PANES: Final = 0.01
"""Delays that grew by less, in panes, are no news."""
DELAYS: Final = ("label_delay_p50_s", "label_delay_p90_s")


class UsualDelay(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a quantile in so many panes: mean of its logarithms, and sum of squares about that.

    As much as `delay_bound` needs of the panes themselves: there may be one for each of fifty segments.
    """

    panes: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_pane(self, seconds: float) -> UsualDelay:
        """With a pane more, while not all stable panes are known (Welford)."""
        if self.panes >= STABLE_PANES:
            return self
        value, panes = math.log1p(seconds), self.panes + 1
        mean = self.mean + (value - self.mean) / panes
        return UsualDelay(panes, mean, self.squares + (value - self.mean) * (value - mean))

    def bound(self, pane_s: float, p: float) -> Bound | None:
        """As `delay_bound`."""
        return None if self.panes < KNOWN_PANES else _bound(self.panes, self.mean, self.squares, pane_s, p)


def delay_bound(known: Sequence[float], pane_s: float, p: float) -> Bound | None:
    """Bound of a quantile of a pane's label delays; None while too few panes are known.

    Parameters
    ----------
    known : sequence of float
        The quantile in the first panes, in seconds.
    pane_s : float
        Length of a pane in seconds.
    p : float
        Chance of a false crossing.

    Notes
    -----
    Student's t on logarithms, so that a delay may double whether it takes minutes or days.
    """
    k = len(known)
    if k < KNOWN_PANES:
        return None
    logs = [math.log1p(value) for value in known]
    return _bound(k, fmean(logs), (k - 1) * variance(logs), pane_s, p)


def _bound(k: int, centre: float, squares: float, pane_s: float, p: float) -> Bound:
    spread = math.sqrt((PRIOR_PANES * PRIOR_SPREAD**2 + squares) / (PRIOR_PANES + k - 1))
    freedom = PRIOR_PANES + k - 1
    usual = math.expm1(centre)
    quantile = -float(special.stdtrit(freedom, p))
    threshold = math.expm1(centre + quantile * spread * math.sqrt(1 + 1 / k))
    least = max(usual * LEAST_FACTOR, usual + LEAST_PANES * pane_s)
    return Bound(usual, max(threshold, least), spread * (1 + usual), True)


def delay_severity(bound: Bound, value: float) -> Severity:
    """Severity by how many times longer labels take."""
    factor = value / max(bound.reference, 1.0)
    return "critical" if factor >= 5 else "warning" if factor >= 2 else "info"
