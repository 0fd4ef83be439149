"""The same counters and metrics from arrays: for validation and for compiling references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.metrics import split
from schemas.reference import CategoricalReference, MetricReference, ReferenceStatistics
from schemas.specification import Specification
from streams.columns import Floats, Indexes, class_keys, unique_scalars
from streams.metrics.catalogue import judged_names
from streams.metrics.compute import compute
from streams.metrics.ranking import average_precision, roc_auc
from streams.metrics.view import Dense
from streams.panes import (
    CALIBRATION_BINS,
    COARSE,
    FINE,
    LIMB,
    LIMB_BITS,
    MOST_APE,
    SMALLEST_PROBABILITY,
    PanePlan,
    class_key,
)


def class_indexes(plan: PanePlan, values: ArrayLike) -> Indexes:
    """Class index of every value; unknown ones get `len(plan.classes)`."""
    unique, inverse = unique_scalars(np.asarray(values))
    table = np.array([plan.class_index.get(class_key(v), len(plan.classes)) for v in unique], dtype=np.int64)
    return table[inverse] if len(table) else np.zeros(0, dtype=np.int64)


def label_counters(
    plan: PanePlan,
    labels: ArrayLike,
    predictions: ArrayLike,
    scores: ArrayLike | None,
    *,
    probabilities: Floats | None = None,
    groups: Indexes | None = None,
    group_count: int = 1,
) -> Dense:
    """Counters of labelled events, by group: what `PanePlan.labelled` adds up to (without delays).

    Parameters
    ----------
    labels, predictions : array, shape (n,)
        Classes, or numbers for regression; no missing values.
    scores : array of float, shape (n,), optional
        As in `Compact.score`; NaN where there is none. For regression the predictions are used.
    probabilities : array of float, shape (n, classes), optional
        Multiclass, in the order of `plan.classes`.
    groups : array of int, shape (n,), optional
        Group of every event, in 0 … group_count − 1.

    Returns
    -------
    array of int64, shape (group_count, plan.size)
    """
    n = len(np.asarray(labels))
    group = np.zeros(n, dtype=np.int64) if groups is None else groups
    sums = _Sums(plan, group, group_count)
    sums.add("labelled")
    if plan.task == "regression":
        _regression(sums, np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64))
        return sums.total
    truth = class_indexes(plan, labels)
    predicted = class_indexes(plan, predictions)
    score = np.full(n, np.nan) if scores is None else np.asarray(scores, dtype=np.float64)
    if plan.task == "binary":
        _binary(sums, np.where(truth == len(plan.classes), 0, truth), predicted, score)
    else:
        _multiclass(sums, truth, predicted, score, probabilities)
    return sums.total


class _Sums:
    """Counters by group that events are added to."""

    def __init__(self, plan: PanePlan, group: Indexes, count: int) -> None:
        self.plan = plan
        self._base = group * plan.size
        self._flat = np.zeros(count * plan.size, dtype=np.int64)
        self._count = count

    @property
    def total(self) -> Dense:
        return self._flat.reshape(self._count, self.plan.size)

    def add(
        self,
        name: str,
        offsets: Indexes | int = 0,
        amounts: Indexes | None = None,
        where: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add to a slot: 1, or `amounts`, of the events `where`."""
        flat = self._base + (self.plan.slots[name].start + offsets)
        if where is not None:
            flat = flat[where]
            amounts = amounts[where] if amounts is not None else None
        if amounts is None:
            self._flat += np.bincount(flat, minlength=len(self._flat))
        else:
            np.add.at(self._flat, flat, amounts)

    def add_square(self, name: str, values: Indexes) -> None:
        """Add the limbs of the squares of fixed-point values."""
        squares = values.astype(np.uint64) ** 2  # of a negative one, too: modulo 2^64 it has the same square
        self.add(f"{name}_high", 0, (squares >> np.uint64(LIMB_BITS)).astype(np.int64))
        self.add(f"{name}_low", 0, (squares & np.uint64(LIMB)).astype(np.int64))


def _regression(sums: _Sums, y: Floats, guess: Floats) -> None:
    plan = sums.plan
    sums.add("labels", np.searchsorted(np.asarray(plan.label_edges), y, side="right"))
    sums.add("scored")
    with np.errstate(over="ignore"):
        miss = guess - y
        error = _limited(miss / plan.error_scale * COARSE)
        value = _limited((y - plan.label_mean) / plan.label_std * FINE)
        some = y != 0.0
        ape = np.abs(np.divide(miss, y, out=np.zeros_like(y), where=some))
    sums.add("clipped", where=(np.abs(error) == LIMB) | (np.abs(value) == LIMB))
    sums.add("error", 0, error)
    sums.add("error_abs", 0, np.abs(error))
    bins = np.searchsorted(np.asarray(plan.score_edges), guess, side="right")
    sums.add("bin_scored", bins)
    sums.add("bin_error_abs", bins, np.abs(error))
    sums.add_square("error_square", error)
    sums.add("label_total", 0, value)
    sums.add_square("label_square", value)
    sums.add("ape", 0, _fixed(np.minimum(ape, MOST_APE), FINE), some)
    sums.add("ape_n", where=some)


def _binary(sums: _Sums, truth: Indexes, predicted: Indexes, score: Floats) -> None:
    sums.add("confusion", truth * 3 + predicted)
    scored = np.isfinite(score)
    score = np.where(scored, score, 0.0)
    hit = truth == 1
    bins = np.searchsorted(np.asarray(sums.plan.score_edges), score, side="right")
    sums.add("positives", bins, where=scored & hit)
    sums.add("negatives", bins, where=scored & ~hit)
    _confidence(sums, score, hit, scored)
    sums.add("brier", 0, _fixed((hit - score) ** 2, FINE), scored)
    sums.add("scored", where=scored)
    sums.add("log_loss", 0, _surprise(np.where(hit, score, 1.0 - score)), scored)


def _multiclass(sums: _Sums, truth: Indexes, predicted: Indexes, score: Floats, probabilities: Floats | None) -> None:
    classes = len(sums.plan.classes)
    hit = (truth == predicted) & (truth < classes)
    sums.add("truth", truth)
    sums.add("decided", predicted)
    sums.add("hits", truth, where=hit)
    scored = np.isfinite(score)
    _confidence(sums, np.where(scored, score, 0.0), hit, scored)
    if probabilities is None or not len(truth):
        return
    known = truth < classes
    rows = np.arange(len(truth))
    of_truth = np.hstack([probabilities, np.zeros((len(truth), 1))])[rows, truth]
    fixed = np.hstack([_fixed(probabilities, FINE), np.full((len(truth), 1), 0)])
    fixed[rows, truth] -= FINE
    above = probabilities > of_truth[:, None]
    tied = (probabilities == of_truth[:, None]) & (np.arange(classes) > truth[:, None])
    sums.add("scored")
    sums.add("brier", 0, ((fixed * fixed).sum(axis=1) + FINE // 2) // FINE)
    sums.add("log_loss", 0, _surprise(of_truth))
    sums.add("ranks", (above | tied).sum(axis=1), where=known)


def _confidence(sums: _Sums, score: Floats, hit: NDArray[np.bool_], scored: NDArray[np.bool_]) -> None:
    bins = np.minimum((score * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums.add("calibration_n", bins, where=scored)
    sums.add("calibration_hits", bins, where=scored & hit)
    sums.add("calibration_total", bins, _fixed(score, FINE), scored)


def _surprise(probability: Floats) -> Indexes:
    return _fixed(-np.log(np.maximum(probability, SMALLEST_PROBABILITY)), FINE)


def _fixed(values: Floats, unit: int) -> Indexes:
    return np.rint(values * unit).astype(np.int64)


def _limited(values: Floats) -> Indexes:
    return np.rint(np.clip(values, -float(LIMB), float(LIMB))).astype(np.int64)


def bare_plan(spec: Specification, *, classes: Sequence[str] = (), mean: float = 0.0, std: float = 1.0) -> PanePlan:
    """A plan without features: enough to compute metrics of arrays."""
    empty = CategoricalReference(categories=list(classes), counts=[0] * len(classes), other=0, missing=0)
    reference = ReferenceStatistics(
        task=spec.task,
        rows=0,
        features={},
        scores=None,
        predictions=empty,
        labels=empty,
        classes=list(classes),
        segments={},
        metrics={"rmse": MetricReference(value=std, spread=0.0, scale=0.0)},
        importances={},
        drift={},
        label_mean=mean,
        label_std=std,
    )
    return PanePlan(spec, reference)


def evaluate(
    spec: Specification,
    labels: ArrayLike,
    *,
    predictions: ArrayLike,
    scores: ArrayLike | None = None,
    probabilities: Floats | None = None,
    classes: Sequence[object] = (),
    names: Iterable[str] | None = None,
) -> dict[str, float | None]:
    """Metrics of arrays, with the definitions that monitoring uses; exact where those have bins or round.

    Parameters
    ----------
    labels, predictions : array, shape (n,)
        No missing values. Classes or, for regression, numbers.
    scores : array of float, shape (n,), optional
        Binary: probability of the positive class; multiclass: of the predicted class.
    probabilities : array of float, shape (n, classes), optional
        Multiclass, columns in the order of `classes`.
    names : iterable of str, optional
        Default: every metric of the task (cost only where the specification prices it), and what is watched besides.

    Returns
    -------
    dict of str to float or None
        None where not defined; never NaN.
    """
    truth = np.asarray(labels)
    wanted = list(names) if names is not None else judged_names(spec)
    if len(truth) == 0:
        return dict.fromkeys(wanted)
    if spec.task == "regression":
        y = truth.astype(np.float64)
        miss = np.asarray(predictions, dtype=np.float64) - y
        return {name: _finite(_exact_regression(y, miss, name)) for name in wanted}
    if spec.task == "binary":
        keys = [class_key(spec.model.positive)]
        keys = [*[key for key in dict.fromkeys(class_keys(truth).tolist()) if key not in keys][:1], *keys]
    else:
        keys = [class_key(c) for c in classes]  # type: ignore[arg-type]
        if not keys:
            keys = sorted(set(class_keys(truth).tolist()) | set(class_keys(predictions).tolist()))
    plan = bare_plan(spec, classes=keys)
    counts = label_counters(plan, truth, predictions, scores, probabilities=probabilities)[0]
    computed = compute(plan, counts, wanted)
    out = {name: computed.get(name) for name in wanted}
    if spec.task == "binary" and scores is not None and ({"roc_auc", "pr_auc"} & set(wanted)):
        positives, negatives = _exact_histograms(class_indexes(plan, truth) == 1, np.asarray(scores, dtype=np.float64))
        exact = {"roc_auc": roc_auc(positives, negatives), "pr_auc": average_precision(positives, negatives)}
        out.update({name: value for name, value in exact.items() if name in wanted})
    return out


def _exact_histograms(positive: NDArray[np.bool_], scores: Floats) -> tuple[Indexes, Indexes]:
    known = np.isfinite(scores)
    _, bins = np.unique(scores[known], return_inverse=True)
    size = int(bins.max()) + 1 if len(bins) else 0
    truth = positive[known]
    return (
        np.bincount(bins[truth], minlength=size).astype(np.int64),
        np.bincount(bins[~truth], minlength=size).astype(np.int64),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _exact_regression(y: Floats, miss: Floats, name: str) -> float | None:
    family, argument = split(name)
    with np.errstate(over="ignore", invalid="ignore"):
        if family == "mae":
            return float(np.mean(np.abs(miss)))
        if family == "rmse":
            return float(np.sqrt(np.mean(miss * miss)))
        if family == "bias":
            return float(np.mean(miss))
        if family == "quantile_loss[Q]":
            quantile = float(argument)
            return float(np.mean(np.maximum(-quantile * miss, (1.0 - quantile) * miss)))
        if family == "mape":
            some = y != 0.0
            return float(np.mean(np.minimum(np.abs(miss[some] / y[some]), MOST_APE))) if some.any() else None
        if family == "r2":
            variance = float(np.var(y))
            return 1.0 - float(np.mean(miss * miss)) / variance if variance > 0 and len(y) > 1 else None
    return None  # describes what only a stream has
