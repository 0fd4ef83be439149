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
from streams.estimate.bins import BinFactors, BinReference
from streams.estimate.calibration import (
    Bins,
    Calibration,
    CalibrationState,
    bin_scores,
    hats,
    kept_of,
    logits,
    shares,
    smoothness,
    symmetric,
)
from streams.estimate.expected import BINARY, MULTICLASS, Scores, decided_share, expected
from streams.estimate.losses import LEAST_SHARE, STATE_BYTES, Level, LevelState, LossReference, positions_of
from streams.estimate.parts import Parts
from streams.metrics.compute import compute
from streams.panes import COARSE, FINE, PanePlan

Counts = NDArray[np.int64]
LEAST_SCORED: Final = 0.5
"""Share of the predictions that must carry a probability."""
LEAST_PRECISION: Final = 1.0
"""Information, in squared logits, from which on a segment's pane says anything."""


class Guess(NamedTuple):
    """An estimate: value, and the variance of its error.

    `doubt`: what is not known of the calibration, and how panes differ; `chance`: of the labels, given the scores.
    """

    value: float
    doubt: float
    chance: float


class Part(NamedTuple):
    """A segment in a window: its row in `Parts`, its counters and those of all segments, and the independent panes."""

    row: int
    counts: Counts
    whole: Counts
    panes: float


class Model(Protocol):
    """What estimates the metrics of a task; `names`: those that it can; `width`: measures a segment is off by."""

    plan: PanePlan
    names: tuple[str, ...]
    width: int

    def estimate(self, windows: Sequence[tuple[Counts, float]]) -> list[dict[str, Guess]]:
        """Estimates by metric, of windows given by their counters and the number of independent panes."""

    def estimate_parts(self, parts: Sequence[Part], levels: Parts) -> list[dict[str, Guess]]:
        """Estimates by metric, of segments; nothing of one where it cannot be told."""

    def compare(self, whole: Counts, parts: Sequence[Counts], known: Floats) -> tuple[Floats, Floats]:
        """What segments of a labelled pane lie off by beyond what is `known`, and the variance of it by chance.

        Arrays of shape (segments, width); infinite where nothing is told.
        """

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

    width = 1

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
        return self._estimate(windows, None, np.zeros(len(windows)))

    def estimate_parts(self, parts: Sequence[Part], levels: Parts) -> list[dict[str, Guess]]:
        """Estimates by metric, of segments."""
        windows = [(part.counts, part.panes) for part in parts]
        shifts = np.array([levels.offsets[part.row, 0] for part in parts])
        doubts = np.array([levels.variance(part.row, part.panes)[0] for part in parts])
        return self._estimate(windows, shifts, doubts)

    def _estimate(
        self, windows: Sequence[tuple[Counts, float]], shifts: Floats | None, doubts: Floats
    ) -> list[dict[str, Guess]]:
        """Estimates with the logits shifted, and a doubt about that in each window."""
        out: list[dict[str, Guess]] = [{} for _ in windows]
        which = [index for index, (counts, _) in enumerate(windows) if self._usable(counts)]
        if not which:
            return out
        grid, where = self._grid, self.plan.slots["scores"]
        counts = [windows[index][0] for index in which]
        n = np.array([of[where] for of in counts], dtype=np.float64)
        logit = grid.logit if shifts is None else grid.logit + shifts[which, None]
        p = self.calibration.probabilities(grid.basis, logit)
        found = expected(self.plan.task, Scores(n, p, grid.score, self._decided(counts, n), grid.prices), self.names)
        slopes = np.array([one.slope for one in found.values()])
        by_hit = slopes * (n * (p * (1 - p)))
        chance = (by_hit * slopes).sum(axis=-1)
        by_knot = by_hit @ grid.basis
        known = ((by_knot @ self.calibration.covariance(math.inf)) * by_knot).sum(axis=-1)
        together = by_knot.sum(axis=-1) ** 2
        apart = self.calibration.spread2 * together
        known = known + together * doubts[which]
        for row, index in enumerate(which):
            panes = max(windows[index][1], 1.0)
            for metric, (name, one) in enumerate(found.items()):
                value, by_chance = float(one.value[row]), float(chance[metric, row])
                doubt = float(known[metric, row]) + float(apart[metric, row]) / panes
                if math.isfinite(value + by_chance + doubt):
                    out[index][name] = Guess(value, max(doubt, 0.0), max(by_chance, 0.0))
        return out

    def compare(self, whole: Counts, parts: Sequence[Counts], known: Floats) -> tuple[Floats, Floats]:
        """What segments of a labelled pane lie off by, in logits."""
        common = 0.0
        bins = self._labelled(whole)
        for _ in range(2):  # Newton's steps towards what all of the pane is off by
            off, chance = self._shift([bins], np.array([common]))
            if math.isfinite(chance[0]):
                common += min(max(float(off[0]), -1.0), 1.0)
        off, chance = self._shift([self._labelled(counts) for counts in parts], known[:, 0] + common)
        return off[:, None], chance[:, None]

    def _shift(self, parts: Sequence[Bins], beside: Floats) -> tuple[Floats, Floats]:
        eta = np.array([bins.logit + bins.basis @ self.calibration.offsets for bins in parts]) + beside[:, None]
        n, hits = np.array([bins.n for bins in parts]), np.array([bins.hits for bins in parts])
        p = shares(eta)
        precision = (n * p * (1 - p)).sum(axis=-1)
        told = precision > LEAST_PRECISION
        held = np.where(told, precision, 1.0)
        pull = (hits - n * p).sum(axis=-1)
        return np.where(told, pull / held, 0.0), np.where(told, 1.0 / held, math.inf)

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
        self.powers = {name: 2.0 if split(name)[0] == "rmse" else 1.0 for name in self.losses}
        scores = plan.slots["scores"]
        size = scores.stop - scores.start
        ratio, errors, information = reference.bin_errors
        self.bins: BinReference | None = None
        self.by_bin: dict[str, Floats] = {}
        """Mean loss by bin of the prediction."""
        known = all(len(reference.bin_losses.get(name, ())) == size for name in self.losses)
        if known and len(errors) == len(information) == size:
            self.bins = BinReference(np.asarray(errors), ratio, np.asarray(information))
            self.by_bin = {name: np.asarray(reference.bin_losses[name]) for name in self.losses}
        held = plan.reference.scores.counts if plan.reference.scores is not None else ()
        self.usual = np.asarray(held, dtype=np.float64) if len(held) == size else np.ones(size)
        self.to_units = plan.error_scale / COARSE


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
        self.width = len(self.names)
        cut = STATE_BYTES * self.width
        learnt = LevelState.unpack(state[:cut], self.width) or list(table.levels.values())
        self.bins = None if table.bins is None else BinFactors(table.bins, state[cut:])
        self.levels = {name: Level(table.losses[name].ratio, of) for name, of in zip(self.names, learnt, strict=True)}

    def _bases(self, counts: Counts, n: int) -> dict[str, float]:
        """Mean losses that a window's bins stand for, as the reference has them."""
        table = self._table
        means = table.means + table.weights @ counts / n
        return dict(zip(self.names, np.maximum(means, LEAST_SHARE * table.means).tolist(), strict=True))

    def _followed(self, name: str, counts: Counts) -> tuple[float, float, float]:
        """Mean loss by the bins of the prediction alone, how much larger bins make it now, and the variance of that
        (of its logarithm); 1, 1 and 0 where bins are not followed."""
        table, bins = self._table, self.bins
        if bins is None:
            return 1.0, 1.0, 0.0
        n = counts[self.plan.slots["scores"]].astype(np.float64)
        power = table.powers[name]
        before, usual = n * table.by_bin[name], table.usual * table.by_bin[name]
        factor = np.exp(power * bins.offsets)
        total, now = float(before.sum()), float((before * factor).sum())
        if not (0 < total < math.inf and 0 < now < math.inf):
            return 1.0, 1.0, 0.0
        # What the usual mix of bins does is known with the level.
        beside = power * (before * factor / now - usual * factor / float((usual * factor).sum()))
        return total / float(n.sum()), now / total, float((beside**2 * bins.variance).sum())

    def estimate(self, windows: Sequence[tuple[Counts, float]]) -> list[dict[str, Guess]]:
        """Estimates by metric, of windows given by their counters and the number of independent panes."""
        out = []
        for counts, panes in windows:
            found: dict[str, Guess] = {}
            n = int(counts[self.plan.slots["predicted"].start])
            for name, base in self._bases(counts, n).items() if n > 0 else ():
                _, now, doubt = self._followed(name, counts)
                mean = base * now * math.exp(self.levels[name].state.level)
                self._put(found, name, mean, doubt=self.levels[name].variance(panes) + doubt, n=n)
            out.append(found)
        return out

    def _put(self, found: dict[str, Guess], name: str, mean: float, *, doubt: float, n: int) -> None:
        """Add an estimate; `doubt` is the variance of the logarithm of the mean loss."""
        square = mean * mean  # a power would raise where a product is infinite
        value, spread, chance = mean, square * doubt, square * self.levels[name].ratio / n
        if self._table.powers[name] == 2.0 and mean > 0:
            value, spread, chance = math.sqrt(mean), spread / (4 * mean), chance / (4 * mean)
        if math.isfinite(value + spread + chance):
            found[name] = Guess(value, spread, chance)

    def estimate_parts(self, parts: Sequence[Part], levels: Parts) -> list[dict[str, Guess]]:
        """Estimates by metric, of segments: what features say is counted overall only, and taken from there."""
        out = []
        at = self.plan.slots["predicted"].start
        for part in parts:
            found: dict[str, Guess] = {}
            n, whole = int(part.counts[at]), int(part.whole[at])
            known = self.bins is not None and min(n, whole) > 0
            bases = self._bases(part.whole, whole) if known else {}
            variance = levels.variance(part.row, part.panes)
            for column, (name, base) in enumerate(bases.items()):
                overall, _, _ = self._followed(name, part.whole)
                by_bins, now, doubt = self._followed(name, part.counts)
                level = self.levels[name]
                off = level.state.level + float(levels.offsets[part.row, column])
                doubt += level.variance(part.panes) + float(variance[column])
                self._put(found, name, base / overall * by_bins * now * math.exp(off), doubt=doubt, n=n)
            out.append(found)
        return out

    def compare(self, whole: Counts, parts: Sequence[Counts], known: Floats) -> tuple[Floats, Floats]:
        """What segments of a labelled pane lie off by, in logarithms of the loss."""
        off, chance = np.zeros(known.shape), np.full(known.shape, math.inf)
        if self.bins is None:
            return off, chance
        overall = self._beyond(whole)
        for row, counts in enumerate(parts):
            n = int(counts[self.plan.slots["scored"].start])
            for column, (name, value) in enumerate(self._beyond(counts).items()):
                usual = overall[name]
                if value is not None and usual is not None:
                    chance[row, column] = self.levels[name].ratio / n
                    off[row, column] = value - usual + chance[row, column] / 2 - known[row, column]
        return off, chance

    def _beyond(self, counts: Counts) -> dict[str, float | None]:
        """Logarithm of the realised loss over that of the bins of the prediction."""
        realised = compute(self.plan, counts, self.names)
        out: dict[str, float | None] = {}
        for name in self.names:
            value = realised.get(name)
            by_bins, now, _ = self._followed(name, counts)
            mean = 0.0 if value is None else value * value if self._table.powers[name] == 2.0 else value
            usable = 0 < mean < math.inf and 0 < by_bins * now < math.inf
            out[name] = math.log(mean / (by_bins * now)) if usable else None
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
                mean = value * value if self._table.powers[name] == 2.0 else value
                _, now, _ = self._followed(name, counts)
                self.levels[name].learn(mean, base * now, n=n, kept=self._table.kept)
        if self.bins is not None:
            scored = np.maximum(counts[self.plan.slots["bin_scored"]], 0).astype(np.float64)
            errors = np.maximum(counts[self.plan.slots["bin_error_abs"]], 0) * self._table.to_units
            self.bins.learn(scored, errors, self._table.kept)

    def state(self) -> bytes:
        """What was learnt."""
        levels = b"".join(level.state.pack() for level in self.levels.values())
        return levels if self.bins is None else levels + self.bins.pack()
