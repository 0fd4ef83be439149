"""Compile the model of estimates from held-out rows, with what became of it on rows that it was not made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.reference import EstimateReference, MetricReference
from streams.columns import Indexes, Mask
from streams.estimate.calibration import bin_scores, fit, hats, knots_of, logits
from streams.estimate.estimates import trusted_window
from streams.estimate.losses import Level, LevelState, fit_weights, loss_of, positions_of
from streams.estimate.model import Confidence, Grid, Guess, Losses, Model, Table, estimable
from streams.estimate.trust import Errors
from streams.metrics.batch import class_indexes, label_counters
from streams.metrics.compute import compute
from streams.metrics.levels import Outcomes
from streams.panes import PanePlan

LEAST_ROWS: Final = 100
LEAST_BLOCK: Final = 30
MOST_BLOCKS: Final = 200
FOLDS: Final = 5

Codes = Sequence[tuple[Indexes, int]]
Blocks = Indexes
"""By row: which block of time it belongs to, from 0; negative ones are too small or too old."""


def compile_estimate(
    plan: PanePlan,
    outcomes: Outcomes,
    rows: Mask,
    features: Iterable[tuple[Indexes, int]],
    levels: dict[str, MetricReference],
) -> EstimateReference | None:
    """Model of a version's estimates.

    Parameters
    ----------
    plan : PanePlan
    outcomes : Outcomes
        All rows.
    rows : array of bool
        Those that are held out and labelled.
    features : iterable of (array of int, shape (rows,); number of bins)
        Regression: bin of every row, the last for unusable values; in the order of `plan.features`.
    levels : dict of str to MetricReference

    Returns
    -------
    EstimateReference or None
        None with less than 100 rows, or without probabilities.

    Notes
    -----
    The evidence (`errors`) comes from blocks of time as long as the shortest window, each left out once.
    """
    names = estimable(plan.spec)
    if plan.task != "regression" and outcomes.score is not None:
        rows = rows & np.isfinite(outcomes.score)
    if not names or int(rows.sum()) < LEAST_ROWS or (plan.task != "regression" and outcomes.score is None):
        return None
    blocks = _blocks(plan, outcomes.times[rows])
    source: _Classified | _Regressed
    if plan.task == "regression":
        source = _Regressed(plan, outcomes, rows, list(features), blocks)
    else:
        source = _Classified(plan, outcomes, rows, blocks)
    whole = source.fit(np.ones(source.size, dtype=bool))
    return msgspec.structs.replace(whole, errors=_evidence(plan, source, names, levels))


def _blocks(plan: PanePlan, times: Indexes) -> Blocks:
    block = times // trusted_window(plan.spec)[1]
    found, inverse, counts = np.unique(block, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= LEAST_BLOCK)[-MOST_BLOCKS:]
    if not len(kept):
        return np.zeros(len(times), dtype=np.int64)
    table = np.full(len(found), -1, dtype=np.int64)
    table[kept] = np.arange(len(kept))
    return table[inverse.reshape(-1)]


def _evidence(
    plan: PanePlan, source: _Classified | _Regressed, names: tuple[str, ...], levels: dict[str, MetricReference]
) -> dict[str, list[float]]:
    if source.size < 3:
        return {}
    errors = {name: Errors() for name in names}
    fold = np.arange(source.size) * min(FOLDS, source.size) // source.size
    for held in range(int(fold.max()) + 1):
        reference = source.fit(fold != held)
        model: Model
        if plan.task == "regression":
            model = Losses(plan, Table(plan, reference))
        else:
            model = Confidence(plan, names, Grid(plan, reference))
        left_out = source.counts[fold == held]
        for counts, guesses in zip(left_out, model.estimate([(counts, 1.0) for counts in left_out]), strict=True):
            realised = compute(plan, counts, names)
            for name, guess in guesses.items():
                if name in realised:
                    _add(errors[name], guess, realised[name], levels.get(name))
    return {name: msgspec.to_builtins(one) for name, one in errors.items() if one.weight > 0}


def _add(errors: Errors, guess: Guess, realised: float, level: MetricReference | None) -> None:
    usual = None if level is None else level.value if level.pane_value is None else level.pane_value
    errors.add(
        estimate=guess.value,
        realised=realised,
        level=usual,
        variance=guess.doubt + guess.chance,
        chance=guess.chance,
    )


class _Classified:
    """Score histograms by block."""

    def __init__(self, plan: PanePlan, outcomes: Outcomes, rows: Mask, blocks: Blocks) -> None:
        self.plan = plan
        self.size = int(blocks.max()) + 1
        assert outcomes.score is not None
        score = outcomes.score[rows]
        truth = class_indexes(plan, outcomes.truth[rows])
        guess = class_indexes(plan, outcomes.guesses[rows])
        hit = truth == 1 if plan.task == "binary" else (truth == guess) & (truth < len(plan.classes))
        bins = np.searchsorted(np.asarray(plan.score_edges), score, side="right")
        width = len(plan.score_edges) + 1
        inside = blocks >= 0
        at = blocks[inside] * width + bins[inside]
        shape = (self.size, width)
        self.n = np.bincount(at, minlength=self.size * width).reshape(shape).astype(np.float64)
        self.hits = np.bincount(at[hit[inside]], minlength=self.size * width).reshape(shape).astype(np.float64)
        self.counts = label_counters(
            plan,
            outcomes.truth[rows][inside],
            outcomes.guesses[rows][inside],
            score[inside],
            groups=blocks[inside],
            group_count=self.size,
        )
        self.counts[:, plan.slots["scores"]] = self.n.astype(np.int64)
        self.counts[:, plan.slots["predicted"].start] = self.n.sum(axis=1).astype(np.int64)
        classes = len(plan.classes) + 1
        decided = np.bincount(blocks[inside] * classes + guess[inside], minlength=self.size * classes)
        self.counts[:, plan.slots["predictions"]] = decided.reshape(self.size, classes)
        self.score = bin_scores(np.asarray(plan.score_edges))
        self.knots = knots_of(self.score, self.n.sum(axis=0))
        self.logit = logits(self.score)
        self.basis = hats(np.asarray(self.knots), self.logit)

    def fit(self, used: Mask) -> EstimateReference:
        """Calibration from the blocks `used`."""
        found = fit(self.basis, self.logit, n=self.n[used], hits=self.hits[used])
        return EstimateReference(
            knots=self.knots,
            offsets=_rounded(found.offsets.tolist()),
            information=_rounded(found.information[np.triu_indices(len(self.knots))].tolist()),
            spread=(found.panes, round(found.squares, 6)),
        )


class _Regressed:
    """Losses and bins by row."""

    def __init__(self, plan: PanePlan, outcomes: Outcomes, rows: Mask, features: Codes, blocks: Blocks) -> None:
        self.plan = plan
        self.size = int(blocks.max()) + 1
        self.blocks = blocks
        truth = outcomes.truth[rows].astype(np.float64)
        guess = outcomes.guesses[rows].astype(np.float64)
        self.miss = guess - truth
        bins = np.searchsorted(np.asarray(plan.score_edges), guess, side="right").astype(np.int64)
        self.codes: list[tuple[Indexes, int]] = [(bins, len(plan.score_edges) + 1)]
        self.codes += [(code[rows], size) for code, size in features]
        inside = blocks >= 0
        self.counts = label_counters(
            plan, truth[inside], guess[inside], None, groups=blocks[inside], group_count=self.size
        )
        self.counts[:, plan.slots["predicted"].start] = np.bincount(blocks[inside], minlength=self.size)
        counters = iter(positions_of(plan))
        for code, size in self.codes:
            held = np.bincount(blocks[inside] * size + code[inside], minlength=self.size * size).reshape(-1, size)
            for column in range(size):
                # Weights stand for sums of counters: it does not matter which of them holds the count.
                self.counts[:, next(counters)[0]] = held[:, column]

    def fit(self, used: Mask) -> EstimateReference:
        """Weights and levels from the blocks `used`; rows of no block count where all blocks do."""
        rows = (
            used[np.maximum(self.blocks, 0)] & (self.blocks >= 0) if not used.all() else np.ones(len(self.miss), bool)
        )
        codes = [(code[rows], size) for code, size in self.codes]
        losses: dict[str, tuple[float, float, list[float]]] = {}
        for name in estimable(self.plan.spec):
            loss = loss_of(name, self.miss[rows])
            if loss is None or not math.isfinite(mean := float(loss.mean())) or mean <= 0:
                continue
            base, weights = fit_weights(codes, loss)
            losses[name] = (base, float(np.var(loss)) / mean**2, weights)
        reference = EstimateReference(losses=losses)
        levels = {}
        table = Table(self.plan, reference)
        model = Losses(self.plan, table)
        for name in model.names:
            levels[name] = self._level(model, table.losses[name].ratio, name, used)
        return msgspec.structs.replace(reference, levels=levels)

    def _level(self, model: Losses, ratio: float, name: str, used: Mask) -> tuple[float, float, float, float]:
        """Spread between blocks around the weights, which have the right level by themselves."""
        level = Level(ratio, LevelState())
        squares = panes = 0.0
        sizes = []
        blocks = self.counts[used]
        for counts, guesses in zip(blocks, model.estimate([(counts, 1.0) for counts in blocks]), strict=True):
            realised = compute(self.plan, counts, [name]).get(name)
            guess = guesses.get(name)
            n = int(counts[self.plan.slots["scored"].start])
            if realised is None or realised <= 0 or guess is None or guess.value <= 0 or n < LEAST_BLOCK:
                continue
            power = 2.0 if name == "rmse" else 1.0
            off = power * math.log(realised / guess.value)
            squares += min(off * off, 4.0) - level.ratio / n
            panes += 1.0
            sizes.append(n)
        if panes > 1:
            level.state = LevelState(0.0, 0.0, panes - 1, squares)
        information = sum(1.0 / (level.ratio / n + level.spread2) for n in sizes)
        return (0.0, information, level.state.panes, round(squares, 6) if panes > 1 else 0.0)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
