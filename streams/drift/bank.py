"""River's Page–Hinkley, DDM and HDDM on the error stream, with limits drawn from the budget instead of their defaults.

They see the standardised loss of every closed pane, once and in order, as each can take it: Page–Hinkley the number
itself, DDM whether it is worse than the reference, HDDM its rank among normal numbers (it needs values within 0–1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from scipy import special

from streams.calibration import cusum_limit
from streams.drift.river import river_drift
from streams.drift.sequential import KEPT_HISTORY, MOST_HISTORY

RIVER: Final = ("page-hinkley", "ddm", "hddm")
WARM_PANES: Final = 14
"""Panes before any of them speaks."""
RECENT_PANES: Final = 5
"""Panes that a change is told by, against those before."""
LEAST_JUMP: Final = 0.5
"""Standard errors by which those must be worse: all of them also find changes for the better."""
_DELTA: Final = 0.25
_DDM_LEAST: Final = 3.0


class Jump(NamedTuple):
    """Mean standardised loss before a change and after it."""

    before: float
    after: float


class Bank:
    """The detectors side by side.

    Parameters
    ----------
    names : sequence of str
        Of `RIVER`.
    p : float
        Chance of a false alarm in a pane, of each.
    history : sequence of float
        Standardised losses since the last restart (`AdaptiveWindow.history`): their whole state.

    Notes
    -----
    Limits: Page–Hinkley is a cumulative sum about the running mean and takes Siegmund's limit; on stationary normal
    numbers it alarms in 0.9 p of the panes. HDDM's confidence is p, by Hoeffding's bound: it alarmed never in 90,000
    panes and finds changes in twenty to thirty. DDM's factor is 2 z − 3 of the normal quantile z at p, at least 3: from
    one in 2,300 panes (at 3) to one in 22,000 (at 4).

    References
    ----------
    Page (1954); Gama, Medas, Castillo and Rodrigues (2004), Learning with drift detection; Frías-Blanco et al. (2015),
    Online and non-parametric drift detection methods based on Hoeffding's bounds.
    """

    def __init__(self, names: Sequence[str], p: float, history: Sequence[float] = ()) -> None:
        self._names = tuple(name for name in RIVER if name in names)
        self._p = p
        self._history: list[float] = []
        self._detectors = self._new()
        for value in history:
            self.update(value)

    def _new(self) -> dict[str, Any]:
        river = river_drift()
        factor = max(2 * -float(special.ndtri(self._p)) - 3, _DDM_LEAST)
        made: dict[str, Any] = {
            "page-hinkley": river.PageHinkley(WARM_PANES, _DELTA, cusum_limit(self._p, _DELTA), mode="up"),
            "ddm": river.binary.DDM(WARM_PANES, factor, factor),
            "hddm": river.binary.HDDMA(self._p, self._p),
        }
        return {name: made[name] for name in self._names}

    def update(self, z: float) -> dict[str, Jump]:
        """Take the loss of a pane in.

        Parameters
        ----------
        z : float
            In standard errors above the reference.

        Returns
        -------
        dict of str to Jump
            By detector that saw a change for the worse.
        """
        if len(self._history) >= MOST_HISTORY:
            kept, self._history = self._history[-KEPT_HISTORY:], []
            self._detectors = self._new()
            for old in kept:
                self.update(old)
        self._history.append(z)
        given = {"page-hinkley": z, "ddm": z > 0, "hddm": float(special.ndtr(z))}
        alarmed = []
        for name, detector in self._detectors.items():
            detector.update(given[name])
            if detector.drift_detected and len(self._history) > WARM_PANES:
                alarmed.append(name)
        if not alarmed:
            return {}
        recent, before = self._history[-RECENT_PANES:], self._history[:-RECENT_PANES]
        jump = Jump(sum(before) / len(before), sum(recent) / len(recent))
        return dict.fromkeys(alarmed, jump) if jump.after - jump.before > LEAST_JUMP else {}
