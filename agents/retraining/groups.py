"""The bias report: how a classifier or regressor treats the groups of the sensitive columns.

References
----------
Hardt, Price and Srebro (2016), Equality of Opportunity in Supervised Learning; Barocas, Hardt and Narayanan (2023),
Fairness and Machine Learning, chapter 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.retraining.scoring import Scored
from schemas.specification import Specification
from streams.columns import class_keys
from streams.panes import class_key

if TYPE_CHECKING:
    import pandas as pd

LEAST: Final = 30
MOST_GROUPS: Final = 50


def bias_report(spec: Specification, rows: pd.DataFrame, scored: Scored) -> dict[str, Any]:
    """Rates by group, and the largest difference between groups, for every sensitive column.

    Returns
    -------
    dict
        Column → ``groups`` (value → rates), ``difference`` (rate → largest minus smallest). Groups with fewer than 30
        rows are left out. Binary: ``selection_rate`` (demographic parity), ``true_positive_rate`` and
        ``false_positive_rate`` (equalized odds), ``base_rate``; multiclass: ``accuracy``; regression: ``mae`` and
        ``bias``.
    """
    report: dict[str, Any] = {}
    rates = _rates(spec, rows[spec.data.label].to_numpy(dtype=object), scored)
    for column in spec.validation.sensitive:
        groups: dict[str, dict[str, float | int | None]] = {}
        values = rows[column]
        for value, _ in list(values.value_counts().items())[:MOST_GROUPS]:
            chosen = (values == value).to_numpy()
            if int(chosen.sum()) < LEAST:
                continue
            groups[str(value)] = {
                "n": int(chosen.sum()),
                **{name: _mean(numbers[chosen & among]) for name, (numbers, among) in rates.items()},
            }
        report[column] = {"groups": groups, "difference": {name: _range(groups, name) for name in rates}}
    return report


def _rates(
    spec: Specification, labels: NDArray[Any], scored: Scored
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    everyone = np.ones(len(labels), dtype=bool)
    if spec.task == "regression":
        miss = scored.predictions.astype(np.float64) - labels.astype(np.float64)
        return {"mae": (np.abs(miss), everyone), "bias": (miss, everyone)}
    truth = class_keys(labels)
    predicted = class_keys(scored.predictions)
    if spec.task == "multiclass":
        return {"accuracy": ((truth == predicted).astype(np.float64), everyone)}
    positive = class_key(spec.model.positive)
    selected = (predicted == positive).astype(np.float64)
    is_true = np.asarray(truth == positive, dtype=bool)
    return {
        "selection_rate": (selected, everyone),
        "base_rate": (is_true.astype(np.float64), everyone),
        "true_positive_rate": (selected, is_true),
        "false_positive_rate": (selected, ~is_true),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _range(groups: dict[str, dict[str, float | int | None]], name: str) -> float | None:
    values = [value for group in groups.values() if (value := group[name]) is not None]
    return round(max(values) - min(values), 4) if len(values) > 1 else None
