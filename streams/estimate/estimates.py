"""Estimates of one version: made when a window's traffic closes, reconciled when its labels are complete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.metrics import split
from schemas.reference import EstimateReference
from schemas.specification import Specification
from streams.estimate.calibration import kept_of
from streams.estimate.model import Confidence, Grid, Guess, Losses, Model, Table, estimable
from streams.estimate.segments import SegmentEstimates, SegmentState, Told
from streams.estimate.trust import Errors
from streams.panes import PanePlan
from streams.windows import PANE, Window

Counts = NDArray[np.int64]
LEAST_PREDICTIONS: Final = 20
LEAST_LABELLED: Final = 10
LEAST_PART: Final = 50
"""Predictions below which a segment is not estimated."""
MOST_PENDING: Final = 48
"""Estimates that wait for their labels; where more would, only every second, third … window is reconciled."""
DESK: Final = "_desk"
"""Where a plan keeps its `Desk`."""
_RATIOS: Final = frozenset({"mae", "rmse", "quantile_loss[Q]", "cost", "log_loss"})
"""Metrics that may exceed 1."""


class Estimated(NamedTuple):
    """Estimates of a window.

    `n`: predictions. `guesses`: by metric; `intervals`: where the realised values will lie, with 95 %. `trust`: of the
    model, None while nobody knows.
    """

    n: int
    guesses: dict[str, Guess]
    intervals: dict[str, tuple[float, float]]
    trust: float | None


class Waiting(msgspec.Struct, array_like=True):
    """An estimate that waits for its labels; of each metric, in the model's order."""

    window: str
    end_ms: int
    n: int
    guesses: list[Guess | None]
    intervals: list[tuple[float, float] | None]


class EstimateState(msgspec.Struct, array_like=True):
    """Snapshot of `Estimates`."""

    model: bytes
    errors: list[tuple[str, str, Errors]]
    waiting: list[Waiting]
    segments: SegmentState | None = None


def trusted_window(spec: Specification) -> tuple[str, int]:
    """Window whose estimates make the trust score, the shortest of time, with its length."""
    windows = sorted(spec.time_windows.values(), key=lambda window: window.length_ms)
    return (windows[0].name, windows[0].length_ms) if windows else (PANE, spec.pane_ms)


class Desk:
    """What estimates need of a plan, compiled once and kept with it.

    Attributes
    ----------
    names : tuple of str
        Metrics that are estimated; none where the reference holds no model, or nobody wants it.
    steps : dict of str to int
        How often a window ends, in ms, by name.
    every : int
        Of so many ends of a window one is reconciled.
    """

    def __init__(self, plan: PanePlan) -> None:
        spec, reference = plan.spec, plan.reference.estimate
        self.names: tuple[str, ...] = ()
        self._grid: Grid | None = None
        self._table: Table | None = None
        self.shortest, _ = trusted_window(spec)
        self.steps = {name: window.step_ms or plan.pane_ms for name, window in spec.time_windows.items()}
        self.outstanding = sum((plan.max_label_delay_ms + plan.pane_ms) / step for step in self.steps.values() or [1])
        self.every = max(math.ceil(self.outstanding / MOST_PENDING), 1) if self.steps else 1
        self.evidence: dict[str, list[float]] = {}
        self.kept = kept_of(plan.pane_ms)
        self.reference = reference or EstimateReference()
        if reference is None or not spec.alarms.estimate:
            return
        self.evidence = reference.errors
        if spec.task == "regression":
            self._table = Table(plan, reference)
            self.names = tuple(self._table.losses)
        elif reference.knots:
            self._grid = Grid(plan, reference)
            self.names = estimable(spec)
        self.primary = spec.metrics.primary if spec.metrics.primary in self.names else "".join(self.names[:1])
        self.tops = {name: math.inf if split(name)[0] in _RATIOS else 1.0 for name in self.names}
        self.lows = dict.fromkeys(self.names, 0.0)
        if min(spec.metrics.cost.values(), default=0.0) < 0:
            self.lows["cost"] = -math.inf
        self.usual = {
            name: level.value if level.pane_value is None else level.pane_value
            for name, level in plan.reference.metrics.items()
        }

    @classmethod
    def of(cls, plan: PanePlan) -> Desk:
        """Desk of a plan."""
        found = vars(plan).get(DESK)
        if not isinstance(found, cls):
            found = vars(plan)[DESK] = cls(plan)
        return found

    def model(self, plan: PanePlan, state: bytes) -> Model | None:
        """What estimates, as it was left."""
        if not self.names:
            return None
        if self._table is not None:
            return Losses(plan, self._table, state)
        assert self._grid is not None
        return Confidence(plan, self.names, self._grid, state)


class Estimates:
    """Estimates of one version.

    Parameters
    ----------
    plan : PanePlan
    state : EstimateState, optional
        None: nothing was learnt or is waiting.

    Notes
    -----
    Costs nothing where the reference holds no model. Else one vectorised estimate of all metrics for all windows that
    close at once; state is bounded (`MOST_PENDING`, metrics × windows, knots).
    """

    def __init__(self, plan: PanePlan, state: EstimateState | None = None) -> None:
        self.plan = plan
        self._desk = Desk.of(plan)
        self._model = self._desk.model(plan, b"" if state is None else state.model)
        self._errors: dict[tuple[str, str], Errors] = {}
        self._waiting: dict[tuple[str, int], Waiting] = {}
        self._changed = state is not None
        self._parts: SegmentEstimates | None = None
        """None where no segment is estimated."""
        if self._model is not None and self._desk.reference.segments:
            told = None if state is None else state.segments
            self._parts = SegmentEstimates(plan, self._model, self._desk.reference, self._desk.outstanding, told)
        if state is not None and self._model is not None:
            self._errors = {(window, name): errors for window, name, errors in state.errors}
            self._waiting = {(one.window, one.end_ms): one for one in state.waiting}

    @property
    def active(self) -> bool:
        """Whether anything is estimated."""
        return self._model is not None

    @property
    def segments(self) -> tuple[str, ...]:
        """Keys of the segments that are estimated."""
        return () if self._parts is None else self._parts.keys

    def errors(self, window: str, name: str) -> Errors:
        """What became of the estimates of a metric in a window so far; the reference's own evidence to begin with."""
        found = self._errors.get((window, name))
        if found is None:
            found = Errors(*self._desk.evidence.get(name, ()))
            if window != self._desk.shortest:  # other windows took no part in it: it says how large errors are, no more
                found = Errors(weight=found.weight, surprise=found.surprise, width=found.width)
            self._errors[window, name] = found
        return found

    def trust(self, name: str | None = None) -> float | None:
        """Trust in the estimates of a metric, by default the primary one; None while nobody knows."""
        if self._model is None:
            return None
        return self.errors(self._desk.shortest, name or self._desk.primary).trust

    # ------------------------------------------------------------------------------------------ of a window

    def make(self, windows: Sequence[tuple[Window, Counts]]) -> list[Estimated | None]:
        """Estimate windows whose traffic is complete; kept until their labels are.

        Returns
        -------
        list of Estimated or None
            None where there are too few predictions, or too few with a probability.
        """
        if self._model is None:
            return [None] * len(windows)
        at, pane_ms = self.plan.slots["predicted"].start, self.plan.pane_ms
        # Neighbouring panes are correlated: half their number is independent, as for thresholds.
        given = [(counts, (window.end_ms - window.start_ms) / pane_ms / 2) for window, counts in windows]
        out: list[Estimated | None] = []
        for (window, counts), guesses in zip(windows, self._model.estimate(given), strict=True):
            n = int(counts[at])
            out.append(self._made(window, n, guesses) if guesses and n >= LEAST_PREDICTIONS else None)
        return out

    def _made(self, window: Window, n: int, guesses: dict[str, Guess]) -> Estimated:
        intervals = {name: self._interval(window.name, name, guess) for name, guess in guesses.items()}
        if window.end_ms // self._desk.steps.get(window.name, self.plan.pane_ms) % self._desk.every == 0:
            names = self._desk.names
            waiting = Waiting(
                *(window.name, window.end_ms, n),
                [guesses.get(name) for name in names],
                [intervals.get(name) for name in names],
            )
            self._waiting[window.name, window.end_ms] = waiting
            self._changed = True
        return Estimated(n, guesses, intervals, self.trust())

    def _interval(self, window: str, name: str, guess: Guess) -> tuple[float, float]:
        half = self.errors(window, name).half_width(guess.doubt + guess.chance)
        return max(guess.value - half, self._desk.lows[name]), min(guess.value + half, self._desk.tops[name])

    def reconcile(self, window: Window, realised: dict[str, float | None], labelled: int) -> Estimated | None:
        """Compare the estimate of a window with what came true.

        Parameters
        ----------
        realised : dict of str to float or None
            Metrics of the window's labels.
        labelled : int
            Their number.

        Returns
        -------
        Estimated or None
            As it was made, with today's trust; None where there is none to compare, or hardly a label.
        """
        waiting = self._waiting.pop((window.name, window.end_ms), None)
        if waiting is None or self._model is None:
            return None
        self._changed = True
        if labelled < LEAST_LABELLED:
            return None
        guesses: dict[str, Guess] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for name, made, interval in zip(self._desk.names, waiting.guesses, waiting.intervals, strict=True):
            value = realised.get(name)
            if made is None or interval is None:
                continue
            guesses[name] = guess = made
            intervals[name] = interval
            if value is None:
                continue
            # The labels are a part of what was predicted: fewer of them say less.
            chance = guess.chance * max(waiting.n / labelled, 1.0)
            self.errors(window.name, name).add(
                estimate=guess.value,
                realised=value,
                level=self._desk.usual.get(name),
                variance=guess.doubt + chance,
                chance=chance,
            )
        return Estimated(waiting.n, guesses, intervals, self.trust()) if guesses else None

    def make_parts(self, window: Window, whole: Counts, parts: Mapping[str, Counts]) -> dict[str, Estimated]:
        """Estimate the segments of a window whose traffic is complete: those with at least 50 predictions.

        Parameters
        ----------
        whole : array of int
            Counters of the window.
        parts : mapping of str to array of int
            The same by segment, of `segments`.
        """
        if self._parts is None or not parts:
            return {}
        step = self._desk.steps.get(window.name, self.plan.pane_ms)
        made = self._parts.make(window, step, whole, parts, LEAST_PART)
        self._changed = self._changed or bool(made)
        return {key: self._of_part(told) for key, told in made.items()}

    def reconcile_part(
        self, window: Window, segment: str, realised: dict[str, float | None], labelled: int
    ) -> Estimated | None:
        """As `reconcile`, of a segment."""
        if self._parts is None:
            return None
        told = self._parts.reconcile(window, segment, realised, labelled, LEAST_LABELLED)
        return None if told is None else self._of_part(told)

    def _of_part(self, told: Told) -> Estimated:
        intervals = {
            name: (
                max(guess.value - told.halves[name], self._desk.lows[name]),
                min(guess.value + told.halves[name], self._desk.tops[name]),
            )
            for name, guess in told.guesses.items()
        }
        return Estimated(told.n, told.guesses, intervals, self.trust())

    def learn(self, end_ms: int, counts: Counts, *, usable: bool, parts: Mapping[str, Counts] | None = None) -> None:
        """Take the pane that ends at `end_ms` in, whose labels are complete; forget what waited for it in vain.

        Parameters
        ----------
        usable : bool
            Whether enough of its labels came: those of a few events may not be those of all.
        parts : mapping of str to array of int, optional
            Counters of its segments, of those with enough labels.
        """
        if self._model is None:
            return
        if self._waiting:
            self._waiting = {key: one for key, one in self._waiting.items() if one.end_ms > end_ms}
        if self._parts is not None and usable:
            self._parts.learn(end_ms, counts, parts or {}, self._desk.kept)
        elif self._parts is not None:
            self._parts.forget(end_ms)
        if usable:
            self._model.learn(counts)
            self._changed = True

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> EstimateState | None:
        """State as a struct; None where there is nothing to keep."""
        if self._model is None or not self._changed:
            return None
        errors = [(window, name, errors) for (window, name), errors in sorted(self._errors.items())]
        segments = None if self._parts is None else self._parts.snapshot()
        waiting = [self._waiting[key] for key in sorted(self._waiting)]
        return EstimateState(self._model.state(), errors, waiting, segments)
