"""What the versions of one model say together: shadows answer the same requests twice, and none of it counts twice."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from streams.drift.volume import VolumeState, learn_volume, usual_volume
from streams.drift.volumes import SegmentVolumes

if TYPE_CHECKING:
    from streams.series import Series

NEVER: Final = -1


class Versions:
    """The live versions of a model at one boundary, after all of them have settled.

    Parameters
    ----------
    series : collection of Series
    volume : VolumeState
        The model's usual volume; `learn` adds to it.
    segments : bytes
        The usual volume of its segments, packed.

    Attributes
    ----------
    segments : SegmentVolumes
        `learn` adds to them.
    swaps : set of int
        Starts of the panes in which a version came: one that holds a part of a day only says nothing about the day.

    Notes
    -----
    A challenger or a former champion on probation answers in shadow what the champion answers, and nothing in the
    counters tells the two apart. So a pane counts as what its busiest version answered; only where one version went
    and another came in the same pane, both add up. Versions that share the requests (a canary) count as the busiest.
    """

    __slots__ = ("_judged", "_newest", "_series", "segments", "swaps", "volume")

    def __init__(self, series: Collection[Series], volume: VolumeState, segments: bytes = b"") -> None:
        self._series = series
        self.volume = volume
        self.swaps = {one.first_traffic for one in series}
        self._newest = max((one.last_traffic for one in series), default=NEVER)
        self._judged: dict[tuple[int, str], bool] = {}
        latest = max(series, key=lambda one: (one.first_traffic, one.version), default=None)
        if latest is not None and volume.pane_ms != latest.frame.pane_ms:
            volume.forget(latest.frame.pane_ms)  # of panes of another length nothing is known
        self.segments = SegmentVolumes(segments, volume.pane_ms)

    def answers(self, series: Series) -> bool:
        """Whether a version has traffic as new as any: less for one that another took over from is what was wanted."""
        return series.last_traffic >= self._newest

    def watches_volume(self, series: Series) -> bool:
        """Whether the model's volume can be told in a version's panes, and it is one that answers."""
        return self.answers(series) and series.frame.pane_ms == self.volume.pane_ms

    def predicted(self, start_ms: int, end_ms: int, segment: str = "") -> int:
        """Predictions of the model (in a segment) from `start_ms` up to, but not including, `end_ms`."""
        return self._together(start_ms, end_ms, "predicted", segment)

    def rest(self, start_ms: int, segment: str, predicted: int) -> float:
        """Part of the usual that came in a pane from everywhere but a segment, from which `predicted` came; at most 1.

        Notes
        -----
        1 where nothing else is usual: the segment is the model then, whose own volume tells of it.
        """
        pane_ms = self.volume.pane_ms
        whole = usual_volume(self.volume, start_ms, pane_ms)
        own = self.segments.usual(segment, start_ms)
        if whole is None or own is None or whole - own < 1:
            return 1.0
        came = self.predicted(start_ms, start_ms + pane_ms) - predicted
        return min(max(came, 0) / (whole - own), 1.0)

    def labelled(self, start_ms: int, end_ms: int) -> int:
        """Labelled predictions, as `predicted`."""
        return self._together(start_ms, end_ms, "labelled")

    def _together(self, start_ms: int, end_ms: int, name: str, segment: str = "") -> int:
        most = came = went = 0
        for one in self._series:
            panes = one.panes.get(segment, {})
            held = (panes.get(at) for at in range(start_ms, end_ms, one.frame.pane_ms))
            count = sum(int(getattr(pane, name)) for pane in held if pane is not None)
            most = max(most, count)
            if start_ms <= one.first_traffic < end_ms:
                came = max(came, count)
            elif start_ms <= one.last_traffic < end_ms < self._newest + one.frame.pane_ms:
                went = max(went, count)
        return max(most, came + went)

    def judged(self, start_ms: int, *, collapsed: bool, segment: str = "") -> None:
        """A version's volume (in a segment) was looked at in a pane."""
        at = (start_ms, segment)
        self._judged[at] = self._judged.get(at, False) or collapsed

    def collapsed(self, start_ms: int) -> bool:
        """Whether somebody called the model's volume in a pane a collapse."""
        return self._judged.get((start_ms, ""), False)

    def learn(self) -> None:
        """Take in the panes that were looked at and that nobody calls a collapse.

        Notes
        -----
        A pane that collapsed teaches nothing: it would be the usual of its weekday four weeks later. Segments that were
        not usual for so long are forgotten.
        """
        state = self.volume
        newest = NEVER
        for (start, segment), collapsed in sorted(self._judged.items()):
            end = start + state.pane_ms
            if segment:
                newest = end
                if not collapsed:
                    self.segments.learn(segment, start, self.predicted(start, end, segment))
            elif start >= state.until_ms:
                state.until_ms = end
                if not collapsed:
                    learn_volume(state, start, state.pane_ms, self.predicted(start, end))
        if newest != NEVER:
            self.segments.forget(newest)
        self._judged = {}
