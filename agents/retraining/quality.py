"""Metrics of scored rows, and how far a difference between two models can be trusted: the paired bootstrap.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap; Künsch (1989), The jackknife and the bootstrap for
general stationary observations (resampling blocks, because rows of one day share their weather).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from agents.retraining.scoring import Scored
from schemas.metrics import loss, split
from schemas.specification import Specification
from streams.columns import class_keys
from streams.metrics.batch import evaluate
from streams.panes import SMALLEST_PROBABILITY, class_key

Floats = NDArray[np.float64]
RESAMPLES: Final = 400
SLOW_RESAMPLES: Final = 100
LEAST_BLOCKS: Final = 10
CONFIDENCE: Final = 0.90


def metric_of(spec: Specification, name: str, labels: Any, scored: Scored) -> float | None:
    """One metric, with monitoring's definition."""
    value: float | None = metrics_of(spec, labels, scored, [name])[name]
    return value


def metrics_of(spec: Specification, labels: Any, scored: Scored, names: list[str] | None = None) -> dict[str, Any]:
    """Metrics by name (default: all of the task); None where not defined."""
    return evaluate(
        spec,
        np.asarray(labels, dtype=object) if spec.task != "regression" else np.asarray(labels, dtype=np.float64),
        predictions=scored.predictions,
        scores=scored.scores,
        probabilities=scored.probabilities,
        classes=scored.classes,
        names=names,
    )


def gain(name: str, candidate: float, champion: float) -> float:
    """By how much the candidate is better; negative where it is worse."""
    return loss(name, champion) - loss(name, candidate)


@dataclass(frozen=True)
class Comparison:
    """A metric of both models on the same rows. `gain` > 0: the candidate is better; `low`, `high`: 90 % interval."""

    metric: str
    candidate: float
    champion: float
    gain: float
    low: float
    high: float
    n: int
    blocks: int

    def surely_below(self, bound: float, chance: float) -> bool:
        """Whether the gain lies below `bound` with at most `chance` of being wrong, going by the interval's width."""
        error = (self.high - self.low) / (2 * float(-special.ndtri((1.0 - CONFIDENCE) / 2)))
        return self.gain - float(special.ndtri(chance)) * error < bound

    def report(self) -> dict[str, float | int | str]:
        """For the validation report."""
        return {
            "metric": self.metric,
            "candidate": round(self.candidate, 6),
            "champion": round(self.champion, 6),
            "gain": round(self.gain, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "n": self.n,
            "blocks": self.blocks,
        }


def compare(
    spec: Specification,
    name: str,
    labels: NDArray[Any],
    candidate: Scored,
    champion: Scored,
    *,
    blocks: NDArray[np.int64],
    seed: int = 0,
) -> Comparison | None:
    """Compare two models on the same rows.

    Parameters
    ----------
    labels : array, shape (n,)
    candidate, champion : Scored
        Of those rows, in that order.
    blocks : array of int, shape (n,)
        Pane of each row. With ten or more panes whole panes are resampled, else rows.

    Returns
    -------
    Comparison or None
        None where the metric is not defined on these rows for both.
    """
    one = metric_of(spec, name, labels, candidate)
    other = metric_of(spec, name, labels, champion)
    if one is None or other is None:
        return None
    rng = np.random.default_rng(seed)
    _, block = np.unique(blocks, return_inverse=True)
    count = int(block.max()) + 1
    by_block = count >= LEAST_BLOCKS
    units = count if by_block else len(labels)
    fast = _weighted(spec, name, labels)
    gains: list[float] = []
    for _ in range(RESAMPLES if fast else SLOW_RESAMPLES):
        drawn = np.bincount(rng.integers(0, units, units), minlength=units)
        weights = drawn[block] if by_block else drawn
        if fast is not None:
            pair = (fast(candidate, weights.astype(np.float64)), fast(champion, weights.astype(np.float64)))
        else:
            rows = np.repeat(np.arange(len(labels)), weights)
            pair = (
                metric_of(spec, name, labels[rows], candidate.at(rows)),
                metric_of(spec, name, labels[rows], champion.at(rows)),
            )
        if pair[0] is not None and pair[1] is not None:
            gains.append(gain(name, pair[0], pair[1]))
    tail = (1.0 - CONFIDENCE) / 2
    point = gain(name, one, other)
    low, high = np.quantile(gains, [tail, 1.0 - tail]) if gains else (point, point)
    return Comparison(name, one, other, point, float(low), float(high), len(labels), count)


Weighted = Callable[[Scored, Floats], float | None]


def _weighted(spec: Specification, name: str, labels: NDArray[Any]) -> Weighted | None:
    """The metric as a function of row weights, for those that can be had in one pass; None for the others."""
    if spec.task == "regression":
        return _weighted_regression(name, np.asarray(labels, dtype=np.float64))
    keys = class_keys(labels)
    if name == "accuracy":
        hits = _Cached(lambda scored: (class_keys(scored.predictions) == keys).astype(np.float64))
        return lambda scored, weights: _mean(hits.of(scored), weights)
    if spec.task != "binary":
        return None
    keys_positive = class_key(spec.model.positive)
    truth = keys == keys_positive
    if name == "roc_auc":
        ranks = _Cached(lambda scored: _ranking(scored.scores, truth))
        return lambda scored, weights: _auc(ranks.of(scored), weights)
    if name in ("precision", "recall", "f1"):
        counted = _Cached(lambda scored: _counted(name, class_keys(scored.predictions) == keys_positive, truth))
        return lambda scored, weights: _ratio(counted.of(scored), weights)
    losses = {
        "brier": lambda scored: (scored.scores - truth) ** 2,
        "log_loss": lambda scored: (
            -np.log(np.maximum(np.where(truth, scored.scores, 1 - scored.scores), SMALLEST_PROBABILITY))
        ),
        "cost": lambda scored: _costs(spec, scored, truth),
    }
    if name not in losses:
        return None
    of_rows = _Cached(losses[name])
    return lambda scored, weights: _mean(of_rows.of(scored), weights)


def _weighted_regression(name: str, labels: Floats) -> Weighted | None:
    family, argument = split(name)
    losses: dict[str, Callable[[Scored], Floats]] = {
        "mae": lambda scored: np.abs(scored.predictions - labels),
        "rmse": lambda scored: (scored.predictions - labels) ** 2,
        "bias": lambda scored: scored.predictions - labels,
        "quantile_loss[Q]": lambda scored: _pinball(labels - scored.predictions, float(argument)),
    }
    if family not in losses:
        return None
    of_rows = _Cached(losses[family])

    def of(scored: Scored, weights: Floats) -> float | None:
        value = _mean(of_rows.of(scored), weights)
        return float(np.sqrt(value)) if value is not None and name == "rmse" else value

    return of


def _pinball(short: Floats, quantile: float) -> Floats:
    return np.maximum(quantile * short, (quantile - 1.0) * short)


class _Cached:
    """What is computed once for each of the two models."""

    def __init__(self, compute: Callable[[Scored], Any]) -> None:
        self._compute = compute
        self._known: dict[int, Any] = {}

    def of(self, scored: Scored) -> Any:
        if id(scored) not in self._known:
            self._known[id(scored)] = self._compute(scored)
        return self._known[id(scored)]


def _mean(losses: Floats, weights: Floats) -> float | None:
    total = float(weights.sum())
    return float(losses @ weights) / total if total > 0 else None


def _counted(name: str, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Numerator and denominator of a rate, row by row. F1 is twice the hits over predicted plus true positives."""
    hits = (predicted & truth).astype(np.float64)
    if name == "precision":
        return hits, predicted.astype(np.float64)
    if name == "recall":
        return hits, truth.astype(np.float64)
    return 2 * hits, predicted.astype(np.float64) + truth


def _ratio(counted: tuple[Floats, Floats], weights: Floats) -> float | None:
    below = float(counted[1] @ weights)
    return float(counted[0] @ weights) / below if below > 0 else None


def _costs(spec: Specification, scored: Scored, truth: NDArray[np.bool_]) -> Floats:
    predicted = class_keys(scored.predictions) == class_key(spec.model.positive)
    prices = spec.metrics.cost
    missed = prices.get("false_negative", 0.0) * (truth & ~predicted)
    return np.asarray(missed + prices.get("false_positive", 0.0) * (~truth & predicted), dtype=np.float64)


def _ranking(scores: Any, truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return order, starts, truth[order]


def _auc(ranking: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]], weights: Floats) -> float | None:
    """Weighted share of pairs in the right order, ties half."""
    order, starts, truth = ranking
    weight = weights[order]
    positive = np.add.reduceat(np.where(truth, weight, 0.0), starts)
    negative = np.add.reduceat(np.where(truth, 0.0, weight), starts)
    pairs = positive.sum() * negative.sum()
    if pairs <= 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)
