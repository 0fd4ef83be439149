"""Estimates of a window's metrics from its counters of predictions, by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.metrics import split
from schemas.reference import EstimateReference
from schemas.specification import Specification
from streams.columns import Floats
from streams.estimate.calibration import (
    Bins,
    Calibration,
    CalibrationState,
    bin_scores,
    hats,
    kept_of,
    logits,
    smoothness,
    symmetric,
)
from streams.estimate.expected import BINARY, MULTICLASS, Scores, decided_share, expected
from streams.estimate.losses import LEAST_SHARE, Level, LevelState, LossReference, positions_of
from streams.metrics.compute import compute
from streams.panes import FINE, PanePlan

Counts = NDArray[np.int64]
LEAST_SCORED: Final = 0.5
"""Share of the predictions that must carry a probability."""


class Guess(NamedTuple):
    """An estimate: value, and the variance of its error.

    `doubt`: what is not known of the calibration, and how panes differ; `chance`: of the labels, given the scores.
    """

    value: float
    doubt: float
    chance: float


class Model(Protocol):
    """What estimates the metrics of a task; `names`: those that it can."""

    names: tuple[str, ...]

    def estimate(self, windows: Sequence[tuple[Counts, float]]) -> list[dict[str, Guess]]:
        """Estimates by metric, of windows given by their counters and the number of independent panes."""

    def learn(self, counts: Counts) -> None:
        """Take a labelled pane in."""

    def state(self) -> bytes:
        """What was learnt."""


def estimable(spec: Specification) -> tuple[str, ...]:
    """Watched metrics that can be estimated.

    Notes
    -----
    Not among them: calibration error, bias, R² and MAPE. The first is what the estimate takes from the past, the bias
    of a regression nothing but labels tells, and the last two need the labels' own distribution.
    """
    if spec.task == "regression":
        return tuple(name for name in spec.watched if split(name)[0] in {"mae", "rmse", "quantile_loss[Q]"})
    known = BINARY if spec.task == "binary" else MULTICLASS
    return tuple(name for name in spec.watched if name in known)


class Grid:
    """What a plan's score bins stand for, with the reference's calibration; compiled once a plan.

    Attributes
    ----------
    score, logit : array, shape (bins,)
    knots : array, shape (knots,)
    basis : array, shape (bins, knots)
    """

    def __init__(self, plan: PanePlan, reference: EstimateReference) -> None:
        self.score = bin_scores(np.asarray(plan.score_edges))
        self.logit = logits(self.score)
        self.knots = np.asarray(reference.knots, dtype=np.float64)
        self.basis = hats(self.knots, self.logit)
        size = len(self.knots)
        self.prior = smoothness(size)
        self.reference = CalibrationState(
            np.asarray(reference.offsets, dtype=np.float64),
            symmetric(np.asarray(reference.information, dtype=np.float64), size),
            *reference.spread,
        )
        self.kept = kept_of(plan.pane_ms)
        prices = plan.spec.metrics.cost
        self.prices = (prices.get("false_negative", 0.0), prices.get("false_positive", 0.0))


class Confidence:
    """Classification: what the scores promise, after calibration.

    Parameters
    ----------
    plan : PanePlan
    names : tuple of str
    grid : Grid
    state : bytes
        What was learnt; empty: what the reference says.
    """

    def __init__(self, plan: PanePlan, names: tuple[str, ...], grid: Grid, state: bytes = b"") -> None:
        self.plan = plan
        self.names = names
        self._grid = grid
        learnt = CalibrationState.unpack(state, len(grid.knots))
        self.calibration = Calibration(grid.prior, grid.reference, learnt)

    def _usable(self, counts: Counts) -> bool:
        """Whether enough predictions carry a probability."""
        slots = self.plan.slots
        return bool(counts[slots["scores"]].sum() >= max(LEAST_SCORED * counts[slots["predicted"].start], 1))

    def _decided(self, counts: Sequence[Counts], n: Floats) -> Floats:
        if self.plan.task != "binary":
            return np.ones_like(n)
        start = self.plan.slots["predictions"].start
        negative = np.array([float(of[start]) for of in counts])
        positive = np.array([float(of[start + 1]) for of in counts])
        whole = negative + positive
        told = n.sum(axis=-1) * positive / np.maximum(whole, 1.0)
        by_threshold = (n * (self._grid.score >= self.plan.spec.model.threshold)).sum(axis=-1)
        return decided_share(n, np.where(whole > 0, told, by_threshold))

    def estimate(self, windows: Sequence[tuple[Counts, float]]) -> list[dict[str, Guess]]:
        """Estimates by metric, of windows given by their counters and the number of independent panes."""
        out: list[dict[str, Guess]] = [{} for _ in windows]
        which = [index for index, (counts, _) in enumerate(windows) if self._usable(counts)]
        if not which:
            return out
        grid, where = self._grid, self.plan.slots["scores"]
        counts = [windows[index][0] for index in which]
        n = np.array([of[where] for of in counts], dtype=np.float64)
        p = self.calibration.probabilities(grid.basis, grid.logit)
        found = expected(self.plan.task, Scores(n, p, grid.score, self._decided(counts, n), grid.prices), self.names)
        slopes = np.array([one.slope for one in found.values()])
        by_hit = slopes * (n * (p * (1 - p)))
        chance = (by_hit * slopes).sum(axis=-1)
        by_knot = by_hit @ grid.basis
        known = ((by_knot @ self.calibration.covariance(math.inf)) * by_knot).sum(axis=-1)
        apart = self.calibration.spread2 * by_knot.sum(axis=-1) ** 2
        for row, index in enumerate(which):
            panes = max(windows[index][1], 1.0)
            for metric, (name, one) in enumerate(found.items()):
                value, by_chance = float(one.value[row]), float(chance[metric, row])
                doubt = float(known[metric, row]) + float(apart[metric, row]) / panes
                if math.isfinite(value + by_chance + doubt):
                    out[index][name] = Guess(value, max(doubt, 0.0), max(by_chance, 0.0))
        return out

    def learn(self, counts: Counts) -> None:
        """Take a labelled pane in."""
        bins = self._labelled(counts)
        if bins.n.sum() > 0:
            self.calibration.learn(bins, self._grid.kept)

    def _labelled(self, counts: Counts) -> Bins:
        slots, grid = self.plan.slots, self._grid
        if self.plan.task == "binary":
            hits = np.maximum(counts[slots["positives"]], 0).astype(np.float64)
            return Bins(grid.basis, grid.logit, hits + np.maximum(counts[slots["negatives"]], 0), hits)
        n = np.maximum(counts[slots["calibration_n"]], 0).astype(np.float64)
        total = counts[slots["calibration_total"]] / FINE
        mean = np.clip(np.divide(total, n, out=np.full(len(n), 0.5), where=n > 0), 1e-6, 1 - 1e-6)
        logit = logits(mean)
        hits = np.clip(counts[slots["calibration_hits"]], 0, n).astype(np.float64)
        return Bins(hats(grid.knots, logit), logit, n, hits)

    def state(self) -> bytes:
        """What was learnt."""
        return self.calibration.state().pack()


class Table:
    """The losses of a plan's reference, compiled once a plan.

    Attributes
    ----------
    losses : dict of str to LossReference
    weights : array, shape (losses, counters)
        What each counter of an event adds to its losses.
    means : array, shape (losses,)
    """

    def __init__(self, plan: PanePlan, reference: EstimateReference) -> None:
        positions = positions_of(plan)
        self.losses = {
            name: LossReference(*of)
            for name, of in reference.losses.items()
            if name in estimable(plan.spec) and len(of[2]) == len(positions)
        }
        self.levels = {name: LevelState(*reference.levels.get(name, (0.0,) * 4)) for name in self.losses}
        self.means = np.array([of.mean for of in self.losses.values()])
        self.weights = np.zeros((len(self.losses), plan.size))
        for row, of in enumerate(self.losses.values()):
            for at, weight in zip(positions, of.weights, strict=True):
                self.weights[row, list(at)] = weight
        self.kept = kept_of(plan.pane_ms)


class Losses:
    """Regression: the losses that bins stand for, at the level of the labelled panes.

    Parameters
    ----------
    plan : PanePlan
    table : Table
    state : bytes
        What was learnt; empty: what the reference says.
    """

    def __init__(self, plan: PanePlan, table: Table, state: bytes = b"") -> None:
        self.plan = plan
        self.names = tuple(table.losses)
        self._table = table
        learnt = LevelState.unpack(state, len(self.names)) or list(table.levels.values())
        self.levels = {name: Level(table.losses[name].ratio, of) for name, of in zip(self.names, learnt, strict=True)}

    def _bases(self, counts: Counts, n: int) -> dict[str, float]:
        """Mean losses that a window's bins stand for."""
        table = self._table
        means = table.means + table.weights @ counts / n
        return dict(zip(self.names, np.maximum(means, LEAST_SHARE * table.means).tolist(), strict=True))

    def estimate(self, windows: Sequence[tuple[Counts, float]]) -> list[dict[str, Guess]]:
        """Estimates by metric, of windows given by their counters and the number of independent panes."""
        out = []
        for counts, panes in windows:
            found: dict[str, Guess] = {}
            n = int(counts[self.plan.slots["predicted"].start])
            for name, base in self._bases(counts, n).items() if n > 0 else ():
                level = self.levels[name]
                mean = base * math.exp(level.state.level)
                square = mean * mean  # a power would raise where a product is infinite
                value, doubt, chance = mean, square * level.variance(panes), square * level.ratio / n
                if split(name)[0] == "rmse" and mean > 0:
                    value, doubt, chance = math.sqrt(mean), doubt / (4 * mean), chance / (4 * mean)
                if math.isfinite(value + doubt + chance):
                    found[name] = Guess(value, doubt, chance)
            out.append(found)
        return out

    def learn(self, counts: Counts) -> None:
        """Take a labelled pane in."""
        n = int(counts[self.plan.slots["scored"].start])
        predicted = int(counts[self.plan.slots["predicted"].start])
        if n <= 0 or predicted <= 0:
            return
        realised = compute(self.plan, counts, self.names)
        for name, base in self._bases(counts, predicted).items():
            value = realised.get(name)
            if value is not None:
                mean = value * value if split(name)[0] == "rmse" else value
                self.levels[name].learn(mean, base, n=n, kept=self._table.kept)

    def state(self) -> bytes:
        """What was learnt."""
        return b"".join(level.state.pack() for level in self.levels.values())
