"""Every metric by its name, from the counters of any sum of panes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.metrics import confusion, probability, ranking, regression
from streams.panes import PanePlan

Dense = NDArray[np.int64]


def dense(plan: PanePlan, counters: Mapping[int, int]) -> Dense:
    """Counters as an array by position."""
    out = np.zeros(plan.size, dtype=np.int64)
    if counters:
        out[np.fromiter(counters.keys(), dtype=np.intp, count=len(counters))] = np.fromiter(
            counters.values(), dtype=np.int64, count=len(counters)
        )
    return out


class View:
    """Counters of one window, read by the plan's names."""

    def __init__(self, plan: PanePlan, counts: Dense) -> None:
        self.plan = plan
        self.counts = counts

    def one(self, name: str) -> int:
        """A single counter."""
        return int(self.counts[self.plan.slots[name].start])

    def many(self, name: str) -> Dense:
        """A span of counters."""
        return self.counts[self.plan.slots[name]]

    @property
    def matrix(self) -> Dense:
        """Confusion matrix, rows truth."""
        side = len(self.plan.classes) + 1
        return self.many("confusion").reshape(side, side)

    @property
    def errors(self) -> int:
        """Labelled events of a regression that had a prediction."""
        return self.one("labelled")


def _cost(view: View) -> float | None:
    prices = view.plan.spec.metrics.cost
    return confusion.cost(
        view.matrix,
        false_negative=prices.get("false_negative", 0.0),
        false_positive=prices.get("false_positive", 0.0),
    )


def _calibration(view: View) -> float | None:
    return probability.calibration_error(
        view.many("calibration_n"), view.many("calibration_hits"), view.many("calibration_total")
    )


def _r2(view: View) -> float | None:
    scale = view.plan.error_scale / view.plan.label_std
    return regression.r2(
        view.one("error_square"), view.one("label_total"), view.one("label_square"), view.errors, scale
    )


Metric = Callable[[View], float | None]

_DECISIONS: Final[Mapping[str, Metric]] = {
    "accuracy": lambda v: confusion.accuracy(v.matrix),
    "log_loss": lambda v: probability.mean_fixed(v.one("log_loss"), v.one("scored")),
}

METRICS: Final[Mapping[str, Mapping[str, Metric]]] = {
    "binary": {
        **_DECISIONS,
        "roc_auc": lambda v: ranking.roc_auc(v.many("positives"), v.many("negatives")),
        "pr_auc": lambda v: ranking.average_precision(v.many("positives"), v.many("negatives")),
        "brier": lambda v: probability.mean_fixed(v.one("brier"), v.one("scored")),
        "precision": lambda v: confusion.precision(v.matrix),
        "recall": lambda v: confusion.recall(v.matrix),
        "f1": lambda v: confusion.f1(v.matrix),
        "calibration_error": _calibration,
        "cost": _cost,
    },
    "multiclass": {
        **_DECISIONS,
        "precision_macro": lambda v: confusion.averaged(v.matrix, "precision"),
        "recall_macro": lambda v: confusion.averaged(v.matrix, "recall"),
        "f1_macro": lambda v: confusion.averaged(v.matrix, "f1"),
        "f1_weighted": lambda v: confusion.averaged(v.matrix, "f1", weighted=True),
    },
    "regression": {
        "mae": lambda v: regression.mae(v.one("error_abs"), v.errors, v.plan.error_scale),
        "rmse": lambda v: regression.rmse(v.one("error_square"), v.errors, v.plan.error_scale),
        "mape": lambda v: regression.mape(v.one("ape"), v.one("ape_n")),
        "bias": lambda v: regression.bias(v.one("error"), v.errors, v.plan.error_scale),
        "r2": _r2,
    },
}
"""Metric functions by task and name; the names are those that the specification accepts."""


def compute(
    plan: PanePlan, counters: Mapping[int, int] | Dense, names: Iterable[str] | None = None
) -> dict[str, float | None]:
    """Metrics of a window.

    Parameters
    ----------
    plan : PanePlan
    counters : mapping of int to int, or array
        Sum of the window's panes.
    names : iterable of str, optional
        Default: the metrics that the specification watches.

    Returns
    -------
    dict of str to float or None
        None where the window does not define the metric; never NaN or infinite.
    """
    view = View(plan, counters if isinstance(counters, np.ndarray) else dense(plan, counters))
    table = METRICS[plan.task]
    out: dict[str, float | None] = {}
    for name in names if names is not None else plan.spec.watched:
        value = table[name](view)
        out[name] = value if value is not None and math.isfinite(value) else None
    return out
