"""Compile the model of estimates from held-out rows, with what became of it on rows that it was not made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.reference import EstimateReference, MetricReference
from streams.columns import Floats, Indexes, Mask
from streams.estimate.bins import information_of, shrunk
from streams.estimate.calibration import bin_scores, fit, hats, knots_of, logits
from streams.estimate.estimates import LEAST_PART, trusted_window
from streams.estimate.losses import Level, LevelState, fit_weights, loss_of, positions_of
from streams.estimate.model import Confidence, Counts, Grid, Guess, Losses, Model, Part, Table, estimable
from streams.estimate.parts import Parts
from streams.estimate.trust import Errors
from streams.metrics.batch import class_indexes, label_counters
from streams.metrics.compute import compute
from streams.metrics.levels import Outcomes
from streams.metrics.view import Dense
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
    *,
    segments: Mapping[str, Mask] | None = None,
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
    segments : mapping of str to array of bool, optional
        Rows of each segment that is estimated, too.

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
    inside = {key: mask[rows] for key, mask in sorted((segments or {}).items())}
    parts = {key: source.counted(mask) for key, mask in inside.items()}
    every = np.ones(source.size, dtype=bool)
    whole = source.fit(every)
    errors, of_segments = _evidence(plan, source, parts, names, levels)
    told = _parts(_model(plan, names, whole), source.counts, parts, every)
    return msgspec.structs.replace(
        whole,
        errors=errors,
        segments={
            key: (_rounded(told.offsets[row].tolist()), _rounded(told.information[row].tolist()))
            for key, row in told.rows.items()
        },
        segment_spread=(_rounded(told.panes.tolist()), _rounded(told.squares.tolist())),
        segment_errors=of_segments,
    )


def _model(plan: PanePlan, names: tuple[str, ...], reference: EstimateReference) -> Model:
    if plan.task == "regression":
        return Losses(plan, Table(plan, reference))
    return Confidence(plan, names, Grid(plan, reference))


def _parts(model: Model, whole: Dense, parts: Mapping[str, Dense], used: Mask) -> Parts:
    """What segments lie off by, learnt from the blocks `used`, one after the other."""
    out = Parts(tuple(parts), model.width)
    if not parts:
        return out
    at = model.plan.slots["labelled"].start
    for block in np.flatnonzero(used).tolist():
        here = [(row, parts[key][block]) for key, row in out.rows.items() if parts[key][block, at] > 0]
        if not here:
            continue
        rows = np.array([row for row, _ in here], dtype=np.int64)
        off, chance = model.compare(whole[block], [counts for _, counts in here], out.offsets[rows])
        out.learn(rows, off, chance, 1.0)
    return out


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
    plan: PanePlan,
    source: _Classified | _Regressed,
    parts: Mapping[str, Dense],
    names: tuple[str, ...],
    levels: dict[str, MetricReference],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What became of estimates of blocks that were left out: of the whole, and of segments."""
    if source.size < 3:
        return {}, {}
    errors = {name: Errors() for name in names}
    of_parts = {name: Errors() for name in names}
    fold = np.arange(source.size) * min(FOLDS, source.size) // source.size
    for held in range(int(fold.max()) + 1):
        model = _model(plan, names, source.fit(fold != held))
        left_out = source.counts[fold == held]
        for counts, guesses in zip(left_out, model.estimate([(counts, 1.0) for counts in left_out]), strict=True):
            realised = compute(plan, counts, names)
            for name, guess in guesses.items():
                if name in realised:
                    _add(errors[name], guess, realised[name], levels.get(name))
        known = _parts(model, source.counts, parts, fold != held)
        for block in np.flatnonzero(fold == held).tolist():
            _add_parts(of_parts, model, known, source.counts[block], {key: of[block] for key, of in parts.items()})
    return _found(errors), _found(of_parts)


def _found(errors: Mapping[str, Errors]) -> dict[str, list[float]]:
    return {name: msgspec.to_builtins(one) for name, one in errors.items() if one.weight > 0}


def _add_parts(
    errors: dict[str, Errors], model: Model, known: Parts, whole: Counts, parts: Mapping[str, Counts]
) -> None:
    at = model.plan.slots["predicted"].start
    given = [Part(known.rows[key], of, whole, 1.0) for key, of in parts.items() if of[at] >= LEAST_PART]
    for part, guesses in zip(given, model.estimate_parts(given, known), strict=True):
        realised = compute(model.plan, part.counts, list(guesses))
        for name, guess in guesses.items():
            if name in realised:
                _add(errors[name], guess, realised[name], None, weight=1.0 / len(given))


def _add(errors: Errors, guess: Guess, realised: float, level: MetricReference | None, weight: float = 1.0) -> None:
    usual = None if level is None else level.value if level.pane_value is None else level.pane_value
    errors.add(
        estimate=guess.value,
        realised=realised,
        level=usual,
        variance=guess.doubt + guess.chance,
        chance=guess.chance,
        weight=weight,
    )


class _Classified:
    """Score histograms by block."""

    def __init__(self, plan: PanePlan, outcomes: Outcomes, rows: Mask, blocks: Blocks) -> None:
        self.plan = plan
        self.size = int(blocks.max()) + 1
        self._blocks = blocks
        assert outcomes.score is not None
        self._score = outcomes.score[rows]
        self._truth, self._guess = outcomes.truth[rows], outcomes.guesses[rows]
        truth = class_indexes(plan, self._truth)
        guess = self._decided = class_indexes(plan, self._guess)
        hit = truth == 1 if plan.task == "binary" else (truth == guess) & (truth < len(plan.classes))
        self._bins = np.searchsorted(np.asarray(plan.score_edges), self._score, side="right")
        width = len(plan.score_edges) + 1
        inside = blocks >= 0
        at = blocks[inside] * width + self._bins[inside]
        shape = (self.size, width)
        self.n = np.bincount(at, minlength=self.size * width).reshape(shape).astype(np.float64)
        self.hits = np.bincount(at[hit[inside]], minlength=self.size * width).reshape(shape).astype(np.float64)
        self.counts = self.counted(np.ones(len(blocks), dtype=bool))
        self.score = bin_scores(np.asarray(plan.score_edges))
        self.knots = knots_of(self.score, self.n.sum(axis=0))
        self.logit = logits(self.score)
        self.basis = hats(np.asarray(self.knots), self.logit)

    def counted(self, some: Mask) -> Dense:
        """Counters by block of some of the rows, as the panes would have them."""
        plan, size = self.plan, self.size
        rows = some & (self._blocks >= 0)
        blocks, width, classes = self._blocks[rows], len(plan.score_edges) + 1, len(plan.classes) + 1
        counts = label_counters(
            plan, self._truth[rows], self._guess[rows], self._score[rows], groups=blocks, group_count=size
        )
        scores = np.bincount(blocks * width + self._bins[rows], minlength=size * width).reshape(size, width)
        counts[:, plan.slots["scores"]] = scores
        counts[:, plan.slots["predicted"].start] = scores.sum(axis=1)
        decided = np.bincount(blocks * classes + self._decided[rows], minlength=size * classes)
        counts[:, plan.slots["predictions"]] = decided.reshape(size, classes)
        return counts

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
        self._truth, self._guess = truth, guess
        bins = np.searchsorted(np.asarray(plan.score_edges), guess, side="right").astype(np.int64)
        self.codes: list[tuple[Indexes, int]] = [(bins, len(plan.score_edges) + 1)]
        self.codes += [(code[rows], size) for code, size in features]
        self.counts = self.counted(np.ones(len(blocks), dtype=bool))

    def counted(self, some: Mask) -> Dense:
        """Counters by block of some of the rows, as the panes would have them."""
        plan = self.plan
        rows = some & (self.blocks >= 0)
        blocks = self.blocks[rows]
        counts = label_counters(plan, self._truth[rows], self._guess[rows], None, groups=blocks, group_count=self.size)
        counts[:, plan.slots["predicted"].start] = np.bincount(blocks, minlength=self.size)
        counters = iter(positions_of(plan))
        for code, size in self.codes:
            held = np.bincount(blocks * size + code[rows], minlength=self.size * size).reshape(-1, size)
            for column in range(size):
                # Weights stand for sums of counters: it does not matter which of them holds the count.
                counts[:, next(counters)[0]] = held[:, column]
        return counts

    def fit(self, used: Mask) -> EstimateReference:
        """Weights and levels from the blocks `used`; rows of no block count where all blocks do."""
        rows = (
            used[np.maximum(self.blocks, 0)] & (self.blocks >= 0) if not used.all() else np.ones(len(self.miss), bool)
        )
        codes = [(code[rows], size) for code, size in self.codes]
        losses: dict[str, tuple[float, float, list[float]]] = {}
        by_bin: dict[str, list[float]] = {}
        for name in estimable(self.plan.spec):
            loss = loss_of(name, self.miss[rows])
            if loss is None:
                continue
            # One absurd label may lie beyond what squares can hold: nothing is estimated then.
            with np.errstate(over="ignore", invalid="ignore"):
                mean, spread = float(loss.mean()), float(np.var(loss))
            if not (mean > 0 and mean * mean < math.inf and spread < math.inf):
                continue
            base, weights = fit_weights(codes, loss)
            losses[name] = (base, spread / (mean * mean), weights)
            by_bin[name] = _rounded(self._by_bin(rows, loss).tolist())
        reference = EstimateReference(losses=losses, bin_losses=by_bin, bin_errors=self._bin_errors(rows, used))
        levels = {}
        table = Table(self.plan, reference)
        model = Losses(self.plan, table)
        for name in model.names:
            levels[name] = self._level(model, table.losses[name].ratio, name, used)
        return msgspec.structs.replace(reference, levels=levels)

    def _by_bin(self, rows: Mask, loss: Floats) -> Floats:
        """Mean loss by bin of the prediction."""
        code, size = self.codes[0]
        return shrunk(
            np.bincount(code[rows], minlength=size).astype(np.float64),
            np.bincount(code[rows], weights=loss, minlength=size).astype(np.float64),
        )

    def _bin_errors(self, rows: Mask, used: Mask) -> tuple[float, list[float], list[float]]:
        """Of absolute errors: variance of one event's in squared means, means by bin, information by bin."""
        error = np.abs(self.miss[rows])
        with np.errstate(over="ignore", invalid="ignore"):
            mean, spread = (float(error.mean()), float(np.var(error))) if len(error) else (0.0, 0.0)
        if not (mean > 0 and mean * mean < math.inf and spread < math.inf):
            return (0.0, [], [])
        (code, size), inside = self.codes[0], rows & (self.blocks >= 0)
        blocks = np.bincount(self.blocks[inside] * size + code[inside], minlength=self.size * size)
        ratio = float(f"{spread / (mean * mean):.6g}")
        n = blocks.reshape(self.size, size)[used].astype(np.float64)
        return ratio, _rounded(self._by_bin(rows, error).tolist()), _rounded(information_of(n, ratio).tolist())

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
