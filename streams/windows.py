"""Windows composed of panes: time windows that step by one pane, and count windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from streams.panes import PanePlan

MOST_COUNT_PANES: Final = 96
"""A count window never looks further back: a segment with little traffic must not hold panes for ever."""


class Window(NamedTuple):
    """One window: `start_ms` (inclusive) to `end_ms` (exclusive), made of the panes in between.

    `events`: how many labelled ones a count window asks for, else 0.
    """

    name: str
    start_ms: int
    end_ms: int
    events: int = 0

    @property
    def timed(self) -> bool:
        """Whether this is a time window."""
        return self.events == 0


def windows_ending(plan: PanePlan, end_ms: int, labelled: Mapping[int, int]) -> list[Window]:
    """The windows of a plan that end with the pane before `end_ms`.

    Parameters
    ----------
    labelled : mapping of int to int
        Labelled events by pane start, for count windows: they hold the newest panes with at least as many events as
        asked for, or as many panes as there are.
    """
    spec = plan.spec
    out = [Window(name, end_ms - length, end_ms) for name, length in spec.time_windows.items()]
    for name, count in spec.count_windows.items():
        out.append(Window(name, count_window_start(count, end_ms, plan.pane_ms, labelled), end_ms, count))
    return out


def count_window_start(count: int, end_ms: int, pane_ms: int, labelled: Mapping[int, int]) -> int:
    """Start of the count window that ends at `end_ms`.

    Examples
    --------
    >>> count_window_start(100, 30, 10, {0: 80, 10: 70, 20: 60})
    10
    """
    known = [pane for pane in labelled if pane < end_ms]
    first = max(min(known, default=end_ms - pane_ms), end_ms - MOST_COUNT_PANES * pane_ms)
    start = end_ms
    total = 0
    while start > first and total < count:
        start -= pane_ms
        total += labelled.get(start, 0)
    return min(start, end_ms - pane_ms)


def lookback_ms(plan: PanePlan) -> int:
    """How far before its end the longest window of a plan may start."""
    longest = max(plan.spec.time_windows.values(), default=plan.pane_ms)
    if plan.spec.count_windows:
        longest = max(longest, MOST_COUNT_PANES * plan.pane_ms)
    return longest
