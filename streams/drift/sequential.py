"""Sequential detectors on the error stream: one value per closed pane, in pane order, never rewound."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from streams.drift.river import river_drift

MOST_HISTORY: Final = 512
KEPT_HISTORY: Final = 256


class PageState(msgspec.Struct, array_like=True):
    """State of `page_test`: the cumulative sum, when it last left zero, and what it would be had it not been cut."""

    total: float = 0.0
    since_ms: int = 0
    whole: float = 0.0


def page_test(
    state: PageState, z: float, *, allowance: float, limit: float, pane_start_ms: int, most: float = 0.0
) -> bool:
    """Page's one-sided test: add a standardised loss, tell whether the cumulative sum is beyond the limit.

    Parameters
    ----------
    z : float
        Loss of the pane in standard errors above the reference.
    allowance : float
        Loss per pane that is not counted; changes of twice the allowance are found fastest.
    limit : float
    most : float
        Where the sum is cut, if that is beyond three times the limit.

    Notes
    -----
    The sum is cut at three times the limit: far enough to be held against the budget of a large fleet, and near enough
    that a recovered model does not stay alarmed for ever.

    References
    ----------
    Page (1954), Continuous inspection schemes.

    Examples
    --------
    >>> state = PageState()
    >>> [page_test(state, 2.0, allowance=0.5, limit=4.0, pane_start_ms=day) for day in range(3)]
    [False, False, True]
    """
    if state.total <= 0.0:
        state.since_ms = pane_start_ms
    state.whole = max(state.whole + z - allowance, 0.0) if state.total > 0.0 else max(z - allowance, 0.0)
    state.total = min(max(state.total + z - allowance, 0.0), max(3 * limit, most))
    return state.total > limit


class Change(NamedTuple):
    """What ADWIN saw: mean before and after."""

    before: float
    after: float


class AdaptiveWindow:
    """River's ADWIN with a history short enough to be replayed: that is its snapshot.

    Parameters
    ----------
    delta : float
        Confidence of River's ADWIN.
    history : list of float, optional
        Values since the last restart, of an earlier `history`.

    Notes
    -----
    After `MOST_HISTORY` values it starts again from the newest half, so state and snapshot stay bounded, and a
    restored detector is the same as one that was never stopped.

    References
    ----------
    Bifet and Gavaldà (2007), Learning from time-changing data with adaptive windowing.
    """

    def __init__(self, delta: float, history: list[float] | None = None) -> None:
        self._delta = delta
        self._make: Any = river_drift().ADWIN
        self.history: list[float] = []
        self._detector = self._new()
        for value in history or ():
            self.update(value)

    def _new(self) -> Any:
        return self._make(delta=self._delta, clock=1, min_window_length=5, grace_period=10)

    def update(self, value: float) -> Change | None:
        """Add a value; a change upwards is returned, one downwards is only learnt."""
        if len(self.history) >= MOST_HISTORY:
            kept = self.history[-KEPT_HISTORY:]
            self.history = []
            self._detector = self._new()
            for old in kept:
                self.update(old)
        before = float(self._detector.estimation)
        self._detector.update(value)
        self.history.append(value)
        after = float(self._detector.estimation)
        if self._detector.drift_detected and after > before:
            return Change(before, after)
        return None
