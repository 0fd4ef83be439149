"""Predictions that a table carries already: what some model said, to be monitored without training one here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.backtest.intake import PREDICTION, PROBABILITY, ROW, VERSION, numbers_of, scalars_of
from agents.backtest.leftout import LeftOut
from agents.retraining.shares import sides
from schemas.errors import TrainingError
from schemas.events import Label
from schemas.specification import Specification
from streams.panes import class_key

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recorded:
    """What a table says was predicted; one entry a row.

    Parameters
    ----------
    predictions : list
        None where there is none.
    probabilities : list
        A number (binary: of the positive class), a dict of class to number, or None.
    versions : array of int64
    names : mapping of int to str
        Versions as the table writes them.
    """

    predictions: list[Label | None]
    probabilities: list[float | dict[str, float] | None]
    versions: NDArray[np.int64]
    names: dict[int, str]


def recorded_of(
    frame: pd.DataFrame, spec: Specification, left: LeftOut, *, typed: bool, where: str
) -> tuple[Recorded, pd.DataFrame]:
    """Read the columns ``prediction``, ``probability`` and ``version``, and leave out rows that carry no prediction.

    Raises
    ------
    TrainingError
        No row carries a prediction that the task knows.
    """
    rows = frame[ROW].to_numpy()
    predictions: list[Any]
    if spec.task == "regression":
        numbers, other, infinite = numbers_of(frame[PREDICTION], typed=typed)
        left.add("rows", "the prediction is no number", rows[other | infinite])
        predictions = [None if math.isnan(value) else value for value in numbers.tolist()]
        wrong = other | infinite
    else:
        predictions = [_whole(value) for value in scalars_of(frame[PREDICTION])]
        wrong = np.zeros(len(frame), dtype=bool)
    given = np.array([value is not None for value in predictions], dtype=bool)
    left.add("rows", "no prediction", rows[~given & ~wrong])
    if not given.any():
        raise TrainingError(
            "no row carries a prediction",
            where=f"{where} [{PREDICTION}]",
            remedy="fill the column, or take it out to have a model trained",
        )
    if not given.all():
        frame = frame[given].reset_index(drop=True)
        rows = rows[given]
        predictions = [value for value in predictions if value is not None]
    probabilities: list[Any] = [None] * len(frame)
    if PROBABILITY in frame.columns and spec.task != "regression":
        probabilities = [_probability(value, typed=typed) for value in frame[PROBABILITY].tolist()]
        strange = np.array([value is _STRANGE for value in probabilities], dtype=bool)
        left.add("values", "the probability is none between 0 and 1", rows[strange])
        probabilities = [None if value is _STRANGE else value for value in probabilities]
    versions, names = _versions(frame)
    if PROBABILITY not in frame.columns and spec.task == "binary" and _are_shares(predictions):
        # As in traffic: the model says the probability itself.
        negative, positive = sides(spec)
        probabilities = [float(value) for value in predictions]
        threshold = spec.model.threshold
        predictions = [positive if share >= threshold else negative for share in probabilities]
    return Recorded(predictions, probabilities, versions, names), frame


def _are_shares(predictions: list[Any]) -> bool:
    """Whether all are numbers from 0 to 1, and not all of them whole: probabilities, no classes."""
    numbers = all(isinstance(value, int | float) and 0 <= value <= 1 for value in predictions)
    return numbers and any(0 < value < 1 for value in predictions)


_STRANGE: Any = object()


def _whole(value: Any) -> Any:
    """Classes that pandas made floats, because others are missing, as the integers they were."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _probability(value: Any, *, typed: bool) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return _STRANGE
    if isinstance(value, dict):
        parts = {str(key): _share(part, typed=typed) for key, part in value.items() if part is not None}
        return _STRANGE if any(part is _STRANGE or part is None for part in parts.values()) else parts
    return _share(value, typed=typed)


def _share(value: Any, *, typed: bool) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if typed:
            return _STRANGE
        if not value.strip():
            return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        import pandas as pd

        return None if value is pd.NA else _STRANGE
    return number if 0.0 <= number <= 1.0 else _STRANGE


def _versions(frame: pd.DataFrame) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Versions as numbers: those of the table where they are whole and positive, else in order of their first row."""
    if VERSION not in frame.columns:
        return np.ones(len(frame), dtype=np.int64), {1: "1"}
    texts = [class_key(value) if value is not None else "" for value in scalars_of(frame[VERSION])]
    seen = list(dict.fromkeys(texts))
    if all(text.isdecimal() and 0 < int(text) < 1 << 31 for text in seen):
        table = {text: int(text) for text in seen}
    else:
        table = {text: number for number, text in enumerate(seen, start=1)}
    return np.array([table[text] for text in texts], dtype=np.int64), {n: text for text, n in table.items()}
