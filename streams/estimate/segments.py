"""Estimates of a version's segments: made beside those of the whole, reconciled with their labels."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.reference import EstimateReference
from streams.estimate.model import Guess, Model, Part
from streams.estimate.parts import Parts
from streams.estimate.trust import Errors
from streams.panes import PanePlan
from streams.windows import Window

Counts = NDArray[np.int64]
MOST_PENDING: Final = 96
"""Estimates of segments that wait for their labels; where more would, only some windows are reconciled."""
_SINGLE: Final = struct.Struct("<4f")


class PartGuess(msgspec.Struct, frozen=True, array_like=True):
    """Estimates of a segment in a window: predictions, and four numbers a metric, packed."""

    row: int
    n: int
    numbers: bytes


class WaitingParts(msgspec.Struct, array_like=True):
    """Estimates of a window's segments that wait for their labels."""

    window: str
    end_ms: int
    parts: list[PartGuess]


class SegmentState(msgspec.Struct, array_like=True):
    """Snapshot of `SegmentEstimates`."""

    parts: bytes
    errors: list[tuple[str, str, Errors]]
    waiting: list[WaitingParts]


class Told(msgspec.Struct, frozen=True):
    """Estimate and half the width of its interval, by metric; `n`: predictions."""

    n: int
    guesses: dict[str, Guess]
    halves: dict[str, float]


def reference_parts(reference: EstimateReference, width: int) -> Parts:
    """What the reference says of its segments; none where it was compiled by an earlier release."""
    keys = sorted(key for key, (offsets, _) in reference.segments.items() if len(offsets) == width)
    out = Parts(keys, width)
    for row, key in enumerate(keys):
        out.offsets[row], out.information[row] = reference.segments[key]
    panes, squares = reference.segment_spread
    if len(panes) == len(squares) == width:
        out.panes, out.squares = np.asarray(panes), np.asarray(squares)
    return out


class SegmentEstimates:
    """Estimates of the segments of one version.

    Parameters
    ----------
    plan : PanePlan
    model : Model
        Of the whole; segments differ from it by what `Parts` follows.
    reference : EstimateReference
    outstanding : float
        Windows that wait for labels at a time.
    state : SegmentState, optional

    Notes
    -----
    Errors are those of all segments together, a window's segments sharing its weight: a single segment would say too
    little about its interval. State is bounded by `MOST_PENDING` and the number of segments.
    """

    def __init__(
        self,
        plan: PanePlan,
        model: Model,
        reference: EstimateReference,
        outstanding: float,
        state: SegmentState | None = None,
    ) -> None:
        self._plan = plan
        self._model = model
        self._evidence = reference.segment_errors
        self._fresh = reference_parts(reference, model.width)
        self.keys = self._fresh.keys
        self._every = max(math.ceil(outstanding * max(len(self.keys), 1) / MOST_PENDING), 1)
        self._parts = self._fresh
        self._errors: dict[tuple[str, str], Errors] = {}
        self._waiting: dict[tuple[str, int], dict[str, PartGuess]] = {}
        if state is not None and self.keys:
            self._parts = Parts(self.keys, model.width, state.parts)
            self._errors = {(window, name): errors for window, name, errors in state.errors}
            for one in state.waiting:
                held = {self.keys[part.row]: part for part in one.parts if part.row < len(self.keys)}
                self._waiting[one.window, one.end_ms] = held

    def errors(self, window: str, name: str) -> Errors:
        """What became of the segments' estimates of a metric in a window so far."""
        found = self._errors.get((window, name))
        if found is None:
            evidence = Errors(*self._evidence.get(name, ()))
            found = Errors(weight=evidence.weight, surprise=evidence.surprise, width=evidence.width)
            self._errors[window, name] = found
        return found

    def make(
        self, window: Window, step_ms: int, whole: Counts, parts: Mapping[str, Counts], least: int
    ) -> dict[str, Told]:
        """Estimate the segments of a window that have at least `least` predictions.

        Parameters
        ----------
        step_ms : int
            How often the window ends.
        whole : array of int
            Counters of all segments.
        parts : mapping of str to array of int
            Counters by segment.
        """
        at = self._plan.slots["predicted"].start
        panes = (window.end_ms - window.start_ms) / self._plan.pane_ms / 2
        rows = self._parts.rows
        given = {
            key: Part(rows[key], of, whole, panes) for key, of in parts.items() if key in rows and int(of[at]) >= least
        }
        out: dict[str, Told] = {}
        kept: dict[str, PartGuess] = {}
        made = self._model.estimate_parts(list(given.values()), self._parts) if given else []
        for (key, part), guesses in zip(given.items(), made, strict=True):
            if not guesses:
                continue
            numbers = b"".join(self._packed(window.name, name, guesses.get(name)) for name in self._model.names)
            kept[key] = PartGuess(part.row, int(part.counts[at]), numbers)
            out[key] = self._told(kept[key])
        if kept and window.end_ms // step_ms % self._every == 0:
            self._waiting[window.name, window.end_ms] = kept
        return out

    def _packed(self, window: str, name: str, guess: Guess | None) -> bytes:
        """In single precision: what is published and what is kept is the same number."""
        if guess is None:
            return _SINGLE.pack(*(math.nan,) * 4)
        half = self.errors(window, name).half_width(guess.doubt + guess.chance)
        limit = 3e38
        return _SINGLE.pack(*(min(max(number, -limit), limit) for number in (*guess, half)))

    def _told(self, part: PartGuess) -> Told:
        out = Told(part.n, {}, {})
        for name, (value, doubt, chance, half) in zip(
            self._model.names, _SINGLE.iter_unpack(part.numbers), strict=True
        ):
            if not math.isnan(value):
                out.guesses[name], out.halves[name] = Guess(value, doubt, chance), half
        return out

    def reconcile(
        self, window: Window, segment: str, realised: Mapping[str, float | None], labelled: int, least: int
    ) -> Told | None:
        """Compare the estimate of a segment with what came true; None where there is none, or hardly a label."""
        waiting = self._waiting.get((window.name, window.end_ms), {})
        part = waiting.get(segment)
        if part is None or labelled < least:
            return None
        told = self._told(part)
        for name, guess in told.guesses.items():
            value = realised.get(name)
            if value is None:
                continue
            chance = guess.chance * max(told.n / labelled, 1.0)
            self.errors(window.name, name).add(
                estimate=guess.value,
                realised=value,
                level=None,
                variance=guess.doubt + chance,
                chance=chance,
                weight=1.0 / len(waiting),
            )
        return told

    def learn(self, end_ms: int, whole: Counts, parts: Mapping[str, Counts], kept: float) -> None:
        """Take a labelled pane in, before the model of the whole does; forget what waited in vain."""
        self.forget(end_ms)
        at = self._plan.slots["labelled"].start
        here = [(self._parts.rows[key], of) for key, of in parts.items() if key in self._parts.rows and of[at] > 0]
        rows = np.array([row for row, _ in here], dtype=np.int64)
        if here:
            off, chance = self._model.compare(whole, [of for _, of in here], self._parts.offsets[rows])
            self._parts.learn(rows, off, chance, kept)

    def forget(self, end_ms: int) -> None:
        """Let go of what waits for labels that are complete."""
        self._waiting = {key: parts for key, parts in self._waiting.items() if key[1] > end_ms}

    def snapshot(self) -> SegmentState:
        """State as a struct."""
        return SegmentState(
            self._parts.pack(),
            [(window, name, errors) for (window, name), errors in sorted(self._errors.items())],
            [
                WaitingParts(window, end, [parts[segment] for segment in sorted(parts)])
                for (window, end), parts in sorted(self._waiting.items())
            ],
        )
