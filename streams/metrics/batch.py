"""The same counters and metrics from arrays: for validation and for compiling references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.reference import CategoricalReference, MetricReference, ReferenceStatistics
from schemas.specification import METRICS as METRIC_NAMES
from schemas.specification import Specification
from streams.columns import Floats, Indexes, class_keys, unique_scalars
from streams.metrics.compute import Dense, compute
from streams.metrics.ranking import average_precision, roc_auc
from streams.panes import CALIBRATION_BINS, CLIP, COARSE, FINE, SMALLEST_PROBABILITY, PanePlan, class_key


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
    at = {name: where.start for name, where in plan.slots.items()}
    n = len(np.asarray(labels))
    group = np.zeros(n, dtype=np.int64) if groups is None else groups
    out = np.zeros(group_count * plan.size, dtype=np.int64)

    def add(positions: Indexes | int, amounts: Indexes | None, where: NDArray[np.bool_] | None = None) -> None:
        flat = group * plan.size + positions
        if where is not None:
            flat = flat[where]
            amounts = amounts[where] if amounts is not None else None
        if amounts is None:
            out[:] += np.bincount(flat, minlength=len(out))
        else:
            np.add.at(out, flat, amounts)

    add(at["labelled"], None)
    if plan.task == "regression":
        y = np.asarray(labels, dtype=np.float64)
        guess = np.asarray(predictions, dtype=np.float64)
        add(at["labels"] + np.searchsorted(np.asarray(plan.label_edges), y, side="right"), None)
        standard = (y - plan.label_mean) / plan.label_std
        kept = np.clip(standard, -CLIP, CLIP)
        add(at["label_total"], _fixed(kept, FINE))
        add(at["label_square"], _fixed(kept * kept, COARSE))
        miss = (guess - y) / plan.error_scale
        error = np.clip(miss, -CLIP, CLIP)
        add(at["clipped"], None, (error != miss) | (kept != standard))
        add(at["error"], _fixed(error, FINE))
        add(at["error_abs"], _fixed(np.abs(error), FINE))
        add(at["error_square"], _fixed(error * error, COARSE))
        some = y != 0.0
        ape = np.abs(np.divide(guess - y, y, out=np.zeros_like(y), where=some))
        add(at["ape"], _fixed(np.minimum(ape, CLIP), FINE), some)
        add(at["ape_n"], None, some)
        return out.reshape(group_count, plan.size)

    truth = class_indexes(plan, labels)
    predicted = class_indexes(plan, predictions)
    if plan.task == "binary":
        truth = np.where(truth == len(plan.classes), 0, truth)
    add(at["confusion"] + truth * (len(plan.classes) + 1) + predicted, None)
    if scores is None:
        return out.reshape(group_count, plan.size)
    score = np.asarray(scores, dtype=np.float64)
    scored = np.isfinite(score)
    score = np.where(scored, score, 0.0)
    hit = truth == (1 if plan.task == "binary" else predicted)
    bins = np.searchsorted(np.asarray(plan.score_edges), score, side="right")
    add(at["positives"] + bins, None, scored & hit)
    add(at["negatives"] + bins, None, scored & ~hit)
    coarse = np.minimum((score * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    add(at["calibration_n"] + coarse, None, scored)
    add(at["calibration_hits"] + coarse, None, scored & hit)
    add(at["calibration_total"] + coarse, _fixed(score, FINE), scored)
    add(at["brier"], _fixed((hit - score) ** 2, FINE), scored)
    of_truth = _probability_of_truth(plan, truth, hit, score, probabilities)
    if of_truth is not None:
        add(at["scored"], None, scored)
        add(at["log_loss"], _fixed(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)), FINE), scored)
    return out.reshape(group_count, plan.size)


def _probability_of_truth(
    plan: PanePlan, truth: Indexes, hit: NDArray[np.bool_], score: Floats, probabilities: Floats | None
) -> Floats | None:
    if plan.task == "binary":
        return np.where(hit, score, 1.0 - score)
    if probabilities is None:
        return None
    padded = np.hstack([probabilities, np.zeros((len(probabilities), 1))])
    return np.asarray(padded[np.arange(len(truth)), truth], dtype=np.float64)


def _fixed(values: Floats, unit: int) -> Indexes:
    return np.rint(values * unit).astype(np.int64)


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
    """Metrics of arrays, with the definitions that monitoring uses; ranking metrics are exact (no bins).

    Parameters
    ----------
    labels, predictions : array, shape (n,)
        No missing values. Classes or, for regression, numbers.
    scores : array of float, shape (n,), optional
        Binary: probability of the positive class; multiclass: of the predicted class.
    probabilities : array of float, shape (n, classes), optional
        Multiclass, columns in the order of `classes`.
    names : iterable of str, optional
        Default: every metric of the task (cost only where the specification prices it).

    Returns
    -------
    dict of str to float or None
        None where not defined; never NaN.
    """
    truth = np.asarray(labels)
    if names is None:
        names = [name for name in METRIC_NAMES[spec.task] if name != "cost" or spec.metrics.cost]
    wanted = list(names)
    if len(truth) == 0:
        return dict.fromkeys(wanted)
    if spec.task == "regression":
        y = truth.astype(np.float64)
        miss = np.asarray(predictions, dtype=np.float64) - y
        unit = float(np.sqrt(np.mean(miss * miss))) or 1.0
        return _exact_regression(y, miss, unit, wanted)
    if spec.task == "binary":
        keys = [class_key(spec.model.positive)]
        keys = [*[key for key in dict.fromkeys(class_keys(truth).tolist()) if key not in keys][:1], *keys]
    else:
        keys = [class_key(c) for c in classes]  # type: ignore[arg-type]
        if not keys:
            keys = sorted(set(class_keys(truth).tolist()) | set(class_keys(predictions).tolist()))
    plan = bare_plan(spec, classes=keys)
    counts = label_counters(plan, truth, predictions, scores, probabilities=probabilities)[0]
    out = compute(plan, counts, wanted)
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


def _exact_regression(y: Floats, miss: Floats, unit: float, names: Sequence[str]) -> dict[str, float | None]:
    some = y != 0.0
    variance = float(np.var(y))
    values: dict[str, float | None] = {
        "mae": float(np.mean(np.abs(miss))),
        "rmse": unit if np.any(miss) else 0.0,
        "bias": float(np.mean(miss)),
        "mape": float(np.mean(np.abs(miss[some] / y[some]))) if some.any() else None,
        "r2": 1.0 - float(np.mean(miss * miss)) / variance if variance > 0 and len(y) > 1 else None,
    }
    return {name: value if (value := values[name]) is not None and np.isfinite(value) else None for name in names}
