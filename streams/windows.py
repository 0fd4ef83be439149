"""Windows composed of panes: tumbling, hopping and sliding ones of time, and count windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from schemas.windows import TimeWindow
from streams.panes import PanePlan

MOST_COUNT_PANES: Final = 96
"""A count window never looks further back: a segment with little traffic must not hold panes for ever."""
PANE: Final = "pane"
"""Name of a single pane as a window."""


class Window(NamedTuple):
    """One window: `start_ms` (inclusive) to `end_ms` (exclusive), made of the panes in between.

    `events`: how many labelled ones a count window asks for, else 0. `stepped`: its ends do not depend on traffic.
    """

    name: str
    start_ms: int
    end_ms: int
    events: int = 0
    stepped: bool = False

    @property
    def timed(self) -> bool:
        """Whether this is a time window."""
        return self.events == 0


class Frame(NamedTuple):
    """What of a plan the aggregation needs all the time; many models share one.

    `time_windows`; `count_windows`: names with numbers of events; both in the order written. `size`, `segment_size`,
    `predicted`, `labelled`: number of counters and the two positions that are looked at most.
    """

    pane_ms: int
    max_label_delay_ms: int
    revision_horizon_ms: int
    time_windows: tuple[TimeWindow, ...]
    count_windows: tuple[tuple[str, int], ...]
    size: int
    segment_size: int
    predicted: int
    labelled: int

    @classmethod
    def of(cls, plan: PanePlan) -> Frame:
        """Frame of a plan; plans that give back the most of themselves keep theirs."""
        kept = getattr(plan, "frame", None)
        if isinstance(kept, cls):
            return kept
        return cls(
            plan.pane_ms,
            plan.max_label_delay_ms,
            plan.revision_horizon_ms,
            tuple(plan.spec.time_windows.values()),
            tuple(plan.spec.count_windows.items()),
            plan.size,
            plan.segment_size,
            plan.slots["predicted"].start,
            plan.slots["labelled"].start,
        )

    @property
    def longest_ms(self) -> int:
        """Length of the longest time window; a pane where there is none."""
        return max((window.length_ms for window in self.time_windows), default=self.pane_ms)

    @property
    def stepped(self) -> bool:
        """Whether a time window has a step of its own."""
        return any(window.step_ms for window in self.time_windows)

    @property
    def steadiest(self) -> str:
        """Name of the time window that ends most often, the longest of these; of the pane where there is none."""
        if not self.time_windows:
            return PANE
        return min(self.time_windows, key=lambda window: (window.step_ms or self.pane_ms, -window.length_ms)).name

    @property
    def events(self) -> int:
        """Labelled events of the largest count window; 0 where there is none."""
        return max((count for _, count in self.count_windows), default=0)

    @property
    def lookback_ms(self) -> int:
        """How far before its end the longest window may start."""
        return max(self.longest_ms, MOST_COUNT_PANES * self.pane_ms if self.count_windows else 0)

    def size_of(self, segment: str) -> int:
        """Number of counters, overall (``""``) or of a segment."""
        return self.segment_size if segment else self.size


def windows_ending(frame: Frame, end_ms: int, labelled: Mapping[int, int]) -> list[Window]:
    """The windows that end with the pane before `end_ms`.

    Parameters
    ----------
    labelled : mapping of int to int
        Labelled events by pane start, for count windows: they hold the newest panes with at least as many events as
        asked for, or as many panes as there are.
    """
    return [_timed(window, end_ms) for window in frame.time_windows if window.ends_at(end_ms)] + [
        Window(name, count_window_start(count, end_ms, frame.pane_ms, labelled), end_ms, count)
        for name, count in frame.count_windows
    ]


def stepped_windows_ending(frame: Frame, end_ms: int) -> list[Window]:
    """Those of them that have a step of their own: they are told after a pane without traffic, too."""
    if not frame.stepped:
        return []
    return [_timed(window, end_ms) for window in frame.time_windows if window.step_ms and window.ends_at(end_ms)]


def windows_open(frame: Frame, end_ms: int, labelled: Mapping[int, int]) -> list[Window]:
    """The windows that hold the pane before `end_ms` and end with it, or as soon as their step lets them."""
    ending = windows_ending(frame, end_ms, labelled)
    return [_timed(window, window.next_end(end_ms)) for window in frame.time_windows] + [
        window for window in ending if not window.timed
    ]


def _timed(window: TimeWindow, end_ms: int) -> Window:
    return Window(window.name, end_ms - window.length_ms, end_ms, stepped=window.step_ms > 0)


def count_window_start(count: int, end_ms: int, pane_ms: int, labelled: Mapping[int, int]) -> int:
    """Start of the count window that ends at `end_ms`.

    Examples
    --------
    >>> count_window_start(100, 30, 10, {0: 80, 10: 70, 20: 60})
    10
    """
    # What lies further back may be forgotten already: where a window starts must not depend on it.
    reach = end_ms - MOST_COUNT_PANES * pane_ms
    first = min((pane for pane in labelled if reach <= pane < end_ms), default=end_ms - pane_ms)
    start = end_ms
    total = 0
    while start > first and total < count:
        start -= pane_ms
        total += labelled.get(start, 0)
    return min(start, end_ms - pane_ms)
