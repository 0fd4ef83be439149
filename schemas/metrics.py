"""Names of metrics: which a task knows, what stands in their brackets, and which way is better.

Most names are plain. Some carry an argument: ``recall[UA]`` (a class), ``top_3_accuracy`` (how many guesses),
``quantile_loss[0.9]`` (the quantile that the model predicts). A name without its argument is its family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Direction = Literal["higher", "lower", "zero"]
"""Which values are better; "zero": the nearer to 0."""
Argument = Literal["class", "k", "quantile"]


class Family(NamedTuple):
    """What all metrics of a name have in common; `better` is None for those that describe and are never judged."""

    better: Direction | None
    unit: str = "ratio"
    argument: Argument | None = None


FAMILIES: Final[Mapping[str, Family]] = {
    "accuracy": Family("higher"),
    "roc_auc": Family("higher"),
    "pr_auc": Family("higher"),
    "log_loss": Family("lower", "nat"),
    "brier": Family("lower"),
    "precision": Family("higher"),
    "recall": Family("higher"),
    "f1": Family("higher"),
    "calibration_error": Family("lower"),
    "cost": Family("lower", "cost a decision"),
    "precision_macro": Family("higher"),
    "recall_macro": Family("higher"),
    "f1_macro": Family("higher"),
    "precision_weighted": Family("higher"),
    "recall_weighted": Family("higher"),
    "f1_weighted": Family("higher"),
    "precision[CLASS]": Family("higher", argument="class"),
    "recall[CLASS]": Family("higher", argument="class"),
    "f1[CLASS]": Family("higher", argument="class"),
    "top_K_accuracy": Family("higher", argument="k"),
    "mae": Family("lower", "label"),
    "rmse": Family("lower", "label"),
    "mape": Family("lower"),
    "bias": Family("zero", "label"),
    "r2": Family("higher"),
    "quantile_loss[Q]": Family("lower", "label", "quantile"),
    "true_positives": Family(None, "events"),
    "false_positives": Family(None, "events"),
    "true_negatives": Family(None, "events"),
    "false_negatives": Family(None, "events"),
    "clipped_ratio": Family(None),
    "label_delay_mean_s": Family(None, "s"),
    "label_delay_p50_s": Family(None, "s"),
    "label_delay_p90_s": Family(None, "s"),
    "label_delay_p99_s": Family(None, "s"),
}
"""Every family; what stands for the argument is in capitals."""

LABEL_DELAYS: Final = tuple(name for name in FAMILIES if name.startswith("label_delay_"))
"""Published for every model, watched or not."""

METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "binary": (
        "roc_auc",
        "pr_auc",
        "log_loss",
        "brier",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "calibration_error",
        "cost",
    ),
    "multiclass": (
        "accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "log_loss",
        "brier",
        "calibration_error",
    ),
    "regression": ("mae", "rmse", "mape", "bias", "r2"),
}
"""Metrics without an argument, by task."""

WITH_ARGUMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "binary": (),
    "multiclass": ("precision[CLASS]", "recall[CLASS]", "f1[CLASS]", "top_K_accuracy"),
    "regression": ("quantile_loss[Q]",),
}

DESCRIBING: Final[Mapping[str, tuple[str, ...]]] = {
    "binary": ("true_positives", "false_positives", "true_negatives", "false_negatives", *LABEL_DELAYS),
    "multiclass": LABEL_DELAYS,
    "regression": ("clipped_ratio", *LABEL_DELAYS),
}
"""What can be watched, but neither judged nor chosen as primary, by task."""

_TOP: Final = re.compile(r"top_(.*)_accuracy")
_BRACKETS: Final = re.compile(r"([a-z0-9_]+)\[(.*)\]", re.DOTALL)
_PLACEHOLDERS: Final = {
    name.partition("[")[0]: name for name, family in FAMILIES.items() if "[" in name and family.argument
}


@lru_cache(maxsize=4096)
def split(name: str) -> tuple[str, str]:
    """Family and argument of a name, whether or not there is such a family.

    Examples
    --------
    >>> split("recall[UA]"), split("top_3_accuracy"), split("recall")
    (('recall[CLASS]', 'UA'), ('top_K_accuracy', '3'), ('recall', ''))
    """
    if found := _TOP.fullmatch(name):
        return "top_K_accuracy", found[1]
    if found := _BRACKETS.fullmatch(name):
        return _PLACEHOLDERS.get(found[1], name), found[2]
    return name, ""


def problem(task: str, name: str) -> str | None:
    """What is wrong with a metric's name for a task; None where nothing is."""
    family, argument = split(name)
    if family not in {*METRICS[task], *WITH_ARGUMENT[task], *DESCRIBING[task]}:
        others = [t for t in METRICS if family in {*METRICS[t], *WITH_ARGUMENT[t], *DESCRIBING[t]}]
        if others:
            return f"{name!r} is not defined for the task {task}, only for {' and '.join(others)}"
        return f"{name!r} is no metric"
    kind = FAMILIES[family].argument
    return _ARGUMENTS[kind](name, argument) if kind else None


def _class(name: str, argument: str) -> str | None:
    return None if argument else f"{name!r} names no class"


def _k(name: str, argument: str) -> str | None:
    right = argument.isascii() and argument.isdecimal() and not argument.startswith("0") and len(argument) <= 4
    return None if right else f"{name!r}: {argument!r} is no number of guesses"


def _quantile(name: str, argument: str) -> str | None:
    right = re.fullmatch(r"0?\.\d{1,6}", argument) and 0.0 < float(argument) < 1.0
    return None if right else f"{name!r}: {argument!r} is no quantile between 0 and 1, such as 0.9"


_ARGUMENTS: Final[Mapping[Argument, Callable[[str, str], str | None]]] = {
    "class": _class,
    "k": _k,
    "quantile": _quantile,
}


def accepted(task: str) -> tuple[str, ...]:
    """Everything that can be watched for a task, arguments in capitals."""
    return (*METRICS[task], *WITH_ARGUMENT[task], *DESCRIBING[task])


def better(name: str) -> Direction | None:
    """Which values of a metric are better; None for those that only describe, and for names that are none."""
    family = FAMILIES.get(split(name)[0])
    return family.better if family is not None else None


def lower_is_better(name: str) -> bool:
    """Whether less is better. Of `bias` neither is: see `loss`."""
    return better(name) == "lower"


def loss(name: str, value: float) -> float:
    """A metric's value turned so that more is worse.

    Examples
    --------
    >>> loss("recall[UA]", 0.75), loss("mae", 2.0), loss("bias", -3.0)
    (-0.75, 2.0, 3.0)
    """
    way = better(name)
    if way == "zero":
        return abs(value)
    return value if way == "lower" else -value
