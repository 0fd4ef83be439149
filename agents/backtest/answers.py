"""What was answered to each row, and by which version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.backtest.recorded import Recorded
from agents.retraining.scoring import Scored
from schemas.specification import Specification
from streams.panes import class_key

NONE: Final = -1
"""Version of a row that nothing has answered."""


class Answers:
    """Answers by row; filled as versions answer.

    Parameters
    ----------
    spec : Specification
    count : int
        Rows.

    Attributes
    ----------
    versions : array of int64
    predictions : array of object
    scores : array of float64
        As in `Scored`; NaN where there is none.
    """

    def __init__(self, spec: Specification, count: int) -> None:
        self.spec = spec
        self.versions = np.full(count, NONE, dtype=np.int64)
        self.predictions: NDArray[Any] = np.full(count, None, dtype=object)
        self.scores = np.full(count, np.nan)
        self._shares: NDArray[Any] = np.full(count if spec.task == "multiclass" else 0, None, dtype=object)

    @classmethod
    def of_recorded(cls, spec: Specification, recorded: Recorded) -> Answers:
        """What the table says."""
        count = len(recorded.predictions)
        answers = cls(spec, count)
        answers.versions[:] = recorded.versions
        answers.predictions[:] = recorded.predictions
        if spec.task == "multiclass":
            for row, value in enumerate(recorded.probabilities):
                answers._shares[row] = value
                predicted = class_key(recorded.predictions[row])
                share = value.get(predicted) if isinstance(value, dict) else value
                answers.scores[row] = np.nan if share is None else share
        elif spec.task == "binary":
            positive = class_key(spec.model.positive)
            answers.scores[:] = [
                np.nan if share is None else share
                for value in recorded.probabilities
                for share in [value.get(positive) if isinstance(value, dict) else value]
            ]
        return answers

    def take(self, rows: NDArray[np.int64], scored: Scored, version: int) -> None:
        """Answers of one version, as serving would publish them."""
        self.versions[rows] = version
        self.predictions[rows] = scored.predictions.tolist()
        self.scores[rows] = np.nan if scored.scores is None else scored.scores.clip(0.0, 1.0)
        if self.spec.task == "multiclass" and scored.probabilities is not None:
            keys = [class_key(value) for value in scored.classes]  # type: ignore[arg-type]
            for row, shares in zip(rows.tolist(), scored.probabilities.clip(0.0, 1.0).tolist(), strict=True):
                self._shares[row] = dict(zip(keys, shares, strict=True))

    def refuse(self, rows: NDArray[np.int64]) -> None:
        """Nothing answers these rows."""
        self.versions[rows] = NONE

    def answered(self, first: int, last: int) -> NDArray[np.int64]:
        """Rows of `first` … `last` − 1 that were answered."""
        return first + np.flatnonzero(self.versions[first:last] != NONE)

    def probabilities(self, rows: NDArray[np.int64]) -> list[Any]:
        """What records carry as their probability."""
        if self.spec.task == "multiclass":
            return list(self._shares[rows])
        return [None if value != value else value for value in self.scores[rows].tolist()]  # noqa: PLR0124

    def at(self, rows: NDArray[np.int64], classes: Sequence[str] = ()) -> Scored:
        """Answers to some rows, for metrics."""
        predictions = self.predictions[rows]
        if self.spec.task == "regression":
            return Scored(predictions.astype(np.float64))
        scores = self.scores[rows]
        if not np.isfinite(scores).any():
            return Scored(predictions)
        probabilities = None
        if self.spec.task == "multiclass" and classes and all(isinstance(v, dict) for v in self._shares[rows]):
            probabilities = np.array(
                [[shares.get(key, 0.0) for key in classes] for shares in self._shares[rows]], dtype=np.float64
            )
        return Scored(predictions, scores, probabilities, tuple(classes) if probabilities is not None else ())
