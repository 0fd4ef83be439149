"""Predictions per pane of a model's segments, each against its own usual: a place that falls silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from streams.calibration import Bound
from streams.drift.volume import (
    MEMORY,
    WEEK_MS,
    VolumeState,
    learn_volume,
    phase_of,
    snapshot_of,
    usual_volume,
    volume_bound,
)

MOST_SEGMENTS: Final = 50
"""Segments that are watched: the largest of the reference."""
SKEW: Final = 0.3
"""Skewness of a segment's logarithms towards few that is allowed for: with it the chance is kept by negative binomial
counts whose days deviate by 0.7 of their mean, also while few weeks are known (ADR 51)."""
FORGET_MS: Final = MEMORY * WEEK_MS
"""What was not usual for so long is: the place is gone, or as small as it is now. It is learnt anew."""
_STATES: Final = msgspec.msgpack.Decoder(dict[str, VolumeState])


def watched_segments(segments: Mapping[str, int]) -> tuple[str, ...]:
    """Keys of the segments whose volume is watched, by their rows in the reference.

    Examples
    --------
    >>> watched_segments({"origin=JFK": 300, "origin=EWR": 500})
    ('origin=EWR', 'origin=JFK')
    """
    return tuple(sorted(sorted(segments, key=lambda key: (-segments[key], key))[:MOST_SEGMENTS]))


def segment_bound(state: VolumeState, start_ms: int, pane_ms: int, rest: float, p: float) -> Bound | None:
    """Bound of a segment's predictions in a pane; None as of `volume_bound`.

    Parameters
    ----------
    rest : float
        Part of the usual that came from everywhere else, at most 1.

    Notes
    -----
    What the model lost everywhere is no news of a segment: of that part as much less has to come from it.
    """
    bound = volume_bound(state, start_ms, pane_ms, p, SKEW)
    return None if bound is None else bound._replace(threshold=bound.threshold * rest)


class SegmentVolumes:
    """What is usual of a model's segments; unpacked when one of them is asked for.

    Parameters
    ----------
    packed : bytes
        From `packed`; empty: nothing is known.
    pane_ms : int
        Length of a pane. Of panes of another length nothing is known.

    Notes
    -----
    A segment takes some hundred bytes with panes of a day, a kilobyte with panes of an hour; a model without segments
    nothing.
    """

    __slots__ = ("_changed", "_packed", "_pane_ms", "_states")

    def __init__(self, packed: bytes, pane_ms: int) -> None:
        self._packed = packed
        self._pane_ms = pane_ms
        self._states: dict[str, VolumeState] | None = None
        self._changed = False

    def _known(self) -> dict[str, VolumeState]:
        if self._states is None:
            states = _STATES.decode(self._packed) if self._packed else {}
            self._states = {key: state for key, state in states.items() if state.pane_ms == self._pane_ms}
        return self._states

    def __contains__(self, segment: object) -> bool:
        return segment in self._known()

    def of(self, segment: str) -> VolumeState:
        """What is usual of a segment; it is not to be changed."""
        found = self._known().get(segment)
        return VolumeState(pane_ms=self._pane_ms) if found is None else found

    def usual(self, segment: str, start_ms: int) -> float | None:
        """Predictions that are usual in a pane; None while a week is not known."""
        return usual_volume(self.of(segment), start_ms, self._pane_ms)

    def learn(self, segment: str, start_ms: int, predicted: int) -> None:
        """Take a pane in that is usual, once."""
        state = self.of(segment)
        if start_ms < state.until_ms:
            return
        if predicted > 0 or phase_of(start_ms, self._pane_ms) in state.phases:
            learn_volume(state, start_ms, self._pane_ms, predicted)
            state.until_ms = start_ms + self._pane_ms
            self._known()[segment] = state
            self._changed = True

    def drop(self, segment: str) -> None:
        """Know nothing of a segment any more."""
        if self._known().pop(segment, None) is not None:
            self._changed = True

    def forget(self, now_ms: int) -> None:
        """Drop the segments of which nothing was taken in for `FORGET_MS`."""
        for segment in [key for key, state in self._known().items() if now_ms >= state.until_ms + FORGET_MS]:
            self.drop(segment)

    def packed(self) -> bytes:
        """As bytes; equal states give equal bytes."""
        if not self._changed:
            return self._packed
        states = {key: snapshot_of(state) for key, state in sorted(self._known().items())}
        return msgspec.msgpack.encode(states) if states else b""
