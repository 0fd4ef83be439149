"""Rows as the records that serving and the systems of record would have sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.backtest.answers import Answers
from agents.backtest.history import NEVER, History
from schemas.codec import encode
from schemas.events import GroundTruth, Prediction


@dataclass(frozen=True)
class Batch:
    """Values of one topic in order of time."""

    values: Sequence[bytes]
    times_ms: NDArray[np.int64]

    def beside(self, other: Batch) -> Batch:
        """Both, one after the other: several versions answer the same requests."""
        return Batch([*self.values, *other.values], np.concatenate([self.times_ms, other.times_ms]))


def predictions(history: History, answers: Answers, first: int, last: int) -> Batch:
    """Predictions of those of the rows `first` … `last` − 1 that were answered."""
    model, raw = history.spec.name, msgspec.Raw
    rows = answers.answered(first, last)
    times_ms = history.times_ms[rows]
    values = [
        encode(
            Prediction(
                prediction_id=history.ids[row],
                model=model,
                version=version,
                event_time_ms=at,
                features=raw(history.features[row]),  # type: ignore[arg-type]
                prediction=label,
                probability=probability,
                segment=raw(segment) if (segment := history.segments[row]) else None,  # type: ignore[arg-type]
            )
        )
        for row, at, version, label, probability in zip(
            rows.tolist(),
            times_ms.tolist(),
            answers.versions[rows].tolist(),
            answers.predictions[rows],
            answers.probabilities(rows),
            strict=True,
        )
    ]
    return Batch(values, times_ms)


@dataclass(frozen=True)
class LabelFeed:
    """Labels in the order in which they become known."""

    rows: NDArray[np.int64]
    times_ms: NDArray[np.int64]

    @classmethod
    def of(cls, history: History, first: int) -> LabelFeed:
        """Labels of the rows from `first` on."""
        rows = np.arange(first, len(history))
        rows = rows[history.label_ms[first:] != NEVER]
        rows = rows[np.argsort(history.label_ms[rows], kind="stable")]
        return cls(rows, history.label_ms[rows])

    def batch(self, history: History, first: int, last: int) -> Batch:
        """Records of the labels `first` … `last` − 1."""
        values = [
            encode(GroundTruth(prediction_id=history.ids[row], event_time_ms=at, label=_known(history.labels[row])))
            for row, at in zip(self.rows[first:last].tolist(), self.times_ms[first:last].tolist(), strict=True)
        ]
        return Batch(values, self.times_ms[first:last])


def _known(label: Any) -> Any:
    assert label is not None
    return label
