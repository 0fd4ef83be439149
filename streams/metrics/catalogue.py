"""Every metric: how it is computed from a window's counters, from which of them, and how far it may be off.

`docs/reference/metrics.md` is written from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from schemas.metrics import METRICS, split
from schemas.specification import Specification
from streams.metrics import confusion, probability, ranking, regression
from streams.metrics.delay import label_delays
from streams.metrics.view import View
from streams.panes import COARSE, FINE

Compute = Callable[[View, str], float | None]


class Definition(NamedTuple):
    """A metric.

    `of` takes the view and the name's argument (class, k, quantile; empty where there is none).
    """

    of: Compute
    formula: str
    state: str
    bound: str
    source: str = "scikit-learn"


_EXACT: Final = "exact"
_ROUNDED: Final = "2^-21 (rounding)"
_COUNTS: Final = "confusion matrix"


def _cost(view: View, _: str) -> float | None:
    prices = view.plan.spec.metrics.cost
    return confusion.cost(
        view.matrix,
        false_negative=prices.get("false_negative", 0.0),
        false_positive=prices.get("false_positive", 0.0),
    )


def _calibration(view: View, _: str) -> float | None:
    return probability.calibration_error(
        view.many("calibration_n"), view.many("calibration_hits"), view.many("calibration_total")
    )


def _mean(name: str) -> Compute:
    return lambda view, _: probability.mean_fixed(view.one(name), view.one("scored"))


_CALIBRATION: Final = Definition(
    _calibration,
    "Σ over 15 bins of abs(hits − Σ probability) / n",
    "3 × 15 bins: events, hits, fixed-point sum",
    _ROUNDED,
    "Naeini et al. 2015",
)
_LOG_LOSS: Final = Definition(
    _mean("log_loss"), "mean of −ln(probability of the truth), at least 2^-52", "fixed-point sum, count", _ROUNDED
)


# -------------------------------------------------------------------------------------------------- binary


def _cell(row: int, column: int) -> Compute:
    return lambda view, _: confusion.cell(view.matrix, row, column)


_BINARY: Final[Mapping[str, Definition]] = {
    "roc_auc": Definition(
        lambda v, _: ranking.roc_auc(v.many("positives"), v.many("negatives")),
        "share of (positive, negative) pairs ranked right, ties half",
        "2 histograms of the score",
        "half the share of pairs in one bin; measured ≤ 0.001",
        "Hanley and McNeil 1982",
    ),
    "pr_auc": Definition(
        lambda v, _: ranking.average_precision(v.many("positives"), v.many("negatives")),
        "Σ (recall step × precision), from the highest score down",
        "2 histograms of the score",
        "order inside the bins; measured ≤ 0.005",
        "scikit-learn, average_precision",
    ),
    "log_loss": _LOG_LOSS,
    "brier": Definition(_mean("brier"), "mean of (probability − truth)²", "fixed-point sum, count", _ROUNDED),
    "accuracy": Definition(lambda v, _: confusion.accuracy(v.matrix), "(TP + TN) / n", _COUNTS, _EXACT),
    "precision": Definition(lambda v, _: confusion.precision(v.matrix), "TP / (TP + FP)", _COUNTS, _EXACT),
    "recall": Definition(lambda v, _: confusion.recall(v.matrix), "TP / (TP + FN)", _COUNTS, _EXACT),
    "f1": Definition(lambda v, _: confusion.f1(v.matrix), "2 TP / (2 TP + FP + FN)", _COUNTS, _EXACT),
    "calibration_error": _CALIBRATION,
    "cost": Definition(
        _cost, "(FN × `false_negative` + FP × `false_positive`) / n", _COUNTS, _EXACT, "prices of the specification"
    ),
    "true_positives": Definition(_cell(1, 1), "TP at the threshold", _COUNTS, _EXACT),
    "false_positives": Definition(_cell(0, 1), "FP at the threshold", _COUNTS, _EXACT),
    "true_negatives": Definition(_cell(0, 0), "TN at the threshold", _COUNTS, _EXACT),
    "false_negatives": Definition(_cell(1, 0), "FN at the threshold", _COUNTS, _EXACT),
}


# ---------------------------------------------------------------------------------------------- multiclass

_PER_CLASS: Final = "by class: truth, decisions, hits"


def _classes(view: View) -> confusion.ByClass:
    return confusion.ByClass(view.many("truth"), view.many("decided"), view.many("hits"))


def _averaged(name: confusion.Rate, *, weighted: bool) -> Compute:
    return lambda view, _: confusion.averaged(_classes(view), name, weighted=weighted)


def _of_class(name: confusion.Rate) -> Compute:
    def of(view: View, argument: str) -> float | None:
        index = view.plan.class_index.get(argument)
        return None if index is None else confusion.rate(_classes(view), name, index)

    return of


def _top(view: View, k: str) -> float | None:
    return probability.top_k_accuracy(view.many("ranks"), int(k), view.one("scored"))


_FORMULAS: Final[Mapping[confusion.Rate, str]] = {
    "precision": "hits / decisions",
    "recall": "hits / truths",
    "f1": "2 hits / (decisions + truths)",
}

_MULTICLASS: Final[Mapping[str, Definition]] = {
    "accuracy": Definition(lambda v, _: confusion.share_of_hits(_classes(v)), "hits / n", _PER_CLASS, _EXACT),
    **{
        f"{name}_macro": Definition(
            _averaged(name, weighted=False), f"mean over the classes that occur of {formula}", _PER_CLASS, _EXACT
        )
        for name, formula in _FORMULAS.items()
    },
    **{
        f"{name}_weighted": Definition(
            _averaged(name, weighted=True), f"mean over the classes, by how often they are true, of {formula}",
            _PER_CLASS, _EXACT,
        )
        for name, formula in _FORMULAS.items()
    },
    **{
        f"{name}[CLASS]": Definition(_of_class(name), f"{formula} of that class", _PER_CLASS, _EXACT)
        for name, formula in _FORMULAS.items()
    },
    "top_K_accuracy": Definition(
        _top, "share of truths among the K most probable classes", "histogram of the truth's rank, count", _EXACT
    ),
    "log_loss": _LOG_LOSS,
    "brier": Definition(
        _mean("brier"), "mean of Σ over classes of (probability − truth)², 0–2", "fixed-point sum, count", "2^-18"
    ),
    "calibration_error": _CALIBRATION._replace(source="Guo et al. 2017, of the predicted class"),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- regression


def _errors(view: View) -> regression.Errors:
    return regression.Errors(
        n=view.one("scored"),
        total=view.one("error"),
        absolute=view.one("error_abs"),
        square=view.square("error_square"),
        unit=view.plan.error_scale / COARSE,
    )


def _r2(view: View, _: str) -> float | None:
    return regression.r2(
        _errors(view), view.one("label_total"), view.square("label_square"), unit=view.plan.label_std / FINE
    )


def _clipped(view: View, _: str) -> float | None:
    n = view.one("scored")
    return view.one("clipped") / n if n else None


_SUMS: Final = "fixed-point sums of errors"
_ROUNDED_ERROR: Final = "2^-17 × the reference's RMSE (rounding)"

_REGRESSION: Final[Mapping[str, Definition]] = {
    "mae": Definition(
        lambda v, _: regression.mae(_errors(v)), "mean of abs(prediction − label)", _SUMS, _ROUNDED_ERROR
    ),
    "rmse": Definition(
        lambda v, _: regression.rmse(_errors(v)),
        "√ mean of (prediction − label)²",
        "sum of squares in two 32-bit limbs",
        _ROUNDED_ERROR,
    ),
    "mape": Definition(
        lambda v, _: regression.mape(v.one("ape"), v.one("ape_n")),
        "mean of abs((prediction − label) / label), at most 4096, over labels other than 0",
        "fixed-point sum, count",
        _ROUNDED,
    ),
    "bias": Definition(lambda v, _: regression.bias(_errors(v)), "mean of prediction − label", _SUMS, _ROUNDED_ERROR),
    "r2": Definition(
        _r2,
        "1 − Σ (prediction − label)² / Σ (label − mean)²",
        "sums and squares of errors and labels, in limbs",
        "(1 − R²) × 2^-9, and twice the share of rounding in RMSE",
    ),
    "quantile_loss[Q]": Definition(
        lambda v, q: regression.quantile_loss(_errors(v), float(q)),
        "mean of max(Q × (label − prediction), (Q − 1) × (label − prediction))",
        _SUMS,
        _ROUNDED_ERROR,
        "Koenker and Bassett 1978",
    ),
    "clipped_ratio": Definition(
        _clipped,
        "share of events whose error is above 65,536 reference RMSE, or whose label is 4,096 standard deviations off: "
        "the sums hold that much",
        "count",
        _EXACT,
        "",
    ),
}


# ------------------------------------------------------------------------------------------------ of labels


def _delay(name: str) -> Compute:
    def of(view: View, _: str) -> float | None:
        longest = view.plan.max_label_delay_ms // 1000
        return label_delays(view.many("delay"), view.one("delay_total"), longest).get(name)

    return of


_DELAYS: Final[Mapping[str, Definition]] = {
    "label_delay_mean_s": Definition(
        _delay("label_delay_mean_s"),
        "mean of label time − event time",
        "sum of whole seconds",
        "1 s (cut to seconds)",
        "",
    ),
    **{
        f"label_delay_p{percent}_s": Definition(
            _delay(f"label_delay_p{percent}_s"),
            f"{percent} % of the labels came sooner",
            "histogram, 8 bins an octave",
            "an eighth of the value or 1 s",
            "Hyndman and Fan 1996, type 1",
        )
        for percent in (50, 90, 99)
    },
}

DEFINITIONS: Final[Mapping[str, Mapping[str, Definition]]] = {
    "binary": {**_BINARY, **_DELAYS},
    "multiclass": {**_MULTICLASS, **_DELAYS},
    "regression": {**_REGRESSION, **_DELAYS},
}
"""By task and family: all names that the specification accepts."""


def judged_names(spec: Specification) -> list[str]:
    """Metrics that a specification defines and of which one side is better, watched or not.

    All names without an argument (cost where it has a price), then what is watched besides.
    """
    names = [name for name in METRICS[spec.task] if name != "cost" or spec.metrics.cost]
    return list(dict.fromkeys([*names, *spec.judged]))


@lru_cache(maxsize=4096)
def resolve(task: str, name: str) -> tuple[Compute, str]:
    """How a metric is computed, and its argument.

    Raises
    ------
    KeyError
        Where the task knows no such metric; a checked specification names none.
    """
    family, argument = split(name)
    return DEFINITIONS[task][family].of, argument
