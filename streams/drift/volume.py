"""Predictions per pane against the model's own usual, with its weekly pattern; silence is a pane of none."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from scipy import special

from schemas.events import Severity
from streams.calibration import Bound

WEEK_MS: Final = 7 * 86_400_000
MOST_PHASES: Final = 168
"""Times of the week that are told apart, at most: hours."""
MEMORY: Final = 4
"""Weeks of which a usual volume is the mean, about."""
STEADY: Final = 30
"""Panes of which the scatter about it is the mean, about."""
PRIOR_PANES: Final = 5
PRIOR_SPREAD: Final = 0.3
"""Scatter, as a logarithm, that is assumed of so many panes."""
COLLAPSE: Final = 0.5
"""Part of the usual volume that has to be missing, at least."""
_UNIT: Final = 1024
"""Fixed point of logarithms: a snapshot of a week of hours takes half a kilobyte."""


class VolumeState(msgspec.Struct, array_like=True):
    """What is usual: by time of the week the mean of log(1 + n) in fixed point and of how many weeks; the scatter.

    `pane_ms`: length of the panes it was learnt from; `until_ms`: end of the newest of them.
    """

    phases: dict[int, tuple[int, int]] = {}
    squares: float = 0.0
    panes: int = 0
    since_ms: int = -1
    pane_ms: int = 0
    until_ms: int = -1

    def forget(self, pane_ms: int) -> None:
        """Start anew with panes of another length."""
        self.phases, self.squares, self.panes, self.since_ms = {}, 0.0, 0, -1
        self.pane_ms, self.until_ms = pane_ms, -1


def phase_of(start_ms: int, pane_ms: int) -> int:
    """Time of the week of a pane.

    Examples
    --------
    >>> day = 86_400_000
    >>> [phase_of(at * day, day) for at in (0, 6, 7)], phase_of(25 * 3_600_000, 3_600_000)
    ([0, 6, 0], 25)
    """
    phases = min(max(WEEK_MS // pane_ms, 1), MOST_PHASES)
    return start_ms % WEEK_MS * phases // WEEK_MS


def usual_volume(state: VolumeState, start_ms: int, pane_ms: int) -> float | None:
    """Predictions that are usual at the time of the week of a pane; None while a week is not known."""
    known = state.phases.get(phase_of(start_ms, pane_ms))
    if known is None or start_ms < state.since_ms + WEEK_MS:
        return None
    return math.expm1(known[0] / _UNIT)


def volume_bound(state: VolumeState, start_ms: int, pane_ms: int, p: float, skew: float = 0.0) -> Bound | None:
    """Bound of a pane's predictions; None while a week is not known, or too few are usual to miss any.

    Parameters
    ----------
    skew : float
        Skewness of the logarithms, towards few, that is allowed for.

    Notes
    -----
    Two chances, half of `p` each: that the pane's own level lies so low (Student's t on the logarithm, by the scatter
    about the usual so far), and that so few come at that level (Poisson). Less than half of the usual has to come.
    """
    usual = usual_volume(state, start_ms, pane_ms)
    if usual is None:
        return None
    weeks = state.phases[phase_of(start_ms, pane_ms)][1]
    prior = PRIOR_PANES * PRIOR_SPREAD**2
    spread = math.sqrt((prior + state.squares) / (PRIOR_PANES + min(state.panes, STEADY)))
    freedom = PRIOR_PANES + min(state.panes, STEADY)
    quantile = float(special.stdtrit(freedom, p / 2))
    quantile -= (quantile * quantile - 1) / 6 * skew
    lowest = usual * math.exp(quantile * spread * math.sqrt(1 + 1 / weeks))
    if lowest <= -math.log(p / 2):
        return None  # even nothing at all might be chance
    count = math.floor(float(special.pdtrik(p / 2, lowest)))
    # `pdtrik` interpolates: the last whole count that is unlikely enough.
    while count >= 0 and float(special.pdtr(count, lowest)) > p / 2:
        count -= 1
    if count < 0:
        return None
    return Bound(usual, min(count + 0.5, usual * COLLAPSE), spread * usual, False)


def learn_volume(state: VolumeState, start_ms: int, pane_ms: int, predicted: int) -> None:
    """Take a pane in that is usual.

    Notes
    -----
    None at a time of the week at which there never was any is no level: neither what came before the first prediction
    nor weekends off teach anything, and nothing is missed there.
    """
    phase = phase_of(start_ms, pane_ms)
    if predicted <= 0 and phase not in state.phases:
        return
    if state.since_ms < 0:
        state.since_ms = start_ms
    value = math.log1p(max(predicted, 0))
    level, weeks = state.phases.get(phase, (0, 0))
    if weeks:
        off = value - level / _UNIT
        steady = min(state.panes + 1, STEADY)
        kept = state.squares if state.panes < STEADY else state.squares * (1 - 1 / STEADY)
        state.squares = kept + off * off * weeks / (weeks + 1)
        state.panes = steady
    weeks = min(weeks + 1, MEMORY)
    state.phases = {**state.phases, phase: (level + round((value * _UNIT - level) / weeks), weeks)}


def volume_severity(bound: Bound, value: float) -> Severity:
    """Severity by the part that is missing."""
    lost = 1 - value / bound.reference if bound.reference > 0 else 0.0
    return "critical" if lost >= 0.9 else "warning" if lost >= COLLAPSE else "info"


def snapshot_of(state: VolumeState) -> VolumeState:
    """A copy by time of the week: a snapshot must not depend on when the week began."""
    return msgspec.structs.replace(state, phases=dict(sorted(state.phases.items())))
