"""A loaded version: labels, probabilities and missing values for every task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from agents.serving.model import ServedModel
from schemas.errors import ArtifactError
from schemas.events import Scalar
from schemas.specification import Specification, parse

ROWS: list[Mapping[str, Scalar]] = [{"x": 1.0, "c": "a"}, {"x": None}, {"x": 3, "c": 5, "more": 1}]


def spec(task: str, positive: str = "1", threshold: float = 0.5) -> Specification:
    metric = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "mae"}[task]
    return parse(
        f"""
        [model]
        name = "m"
        task = "{task}"
        positive = {positive}
        threshold = {threshold}
        [data]
        id = "id"
        event_time = "at"
        label = "y"
        max_label_delay = "1d"
        [features]
        x = "numeric"
        c = "categorical"
        [metrics]
        primary = "{metric}"
        """
    )


class Estimator:
    """Answers what it was told, and remembers the frame."""

    def __init__(self, answers: Any, classes: list[Any] | None = None) -> None:
        self.frame: Any = None
        if classes is not None:
            self.classes_ = np.array(classes)
            self.predict_proba = self._answer
        else:
            self.predict = self._answer
        self.answers = np.array(answers)

    def _answer(self, frame: Any) -> Any:
        self.frame = frame
        return self.answers


def test_binary_answers_the_class_by_threshold_and_the_positive_probability() -> None:
    probabilities = [[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]]
    assert ServedModel(spec("binary"), Estimator(probabilities, [0, 1])).predict(ROWS) == [(1, 0.8), (0, 0.3), (1, 0.5)]
    swapped = ServedModel(spec("binary", positive='"no"', threshold=0.6), Estimator(probabilities, ["no", "yes"]))
    assert swapped.predict(ROWS) == [("yes", 0.2), ("no", 0.7), ("yes", 0.5)]
    answer = ServedModel(spec("binary"), Estimator(probabilities, [0.0, 1.0])).predict(ROWS)[0]
    assert answer is not None
    assert type(answer[0]) is float


def test_multiclass_answers_the_likeliest_class_and_all_probabilities() -> None:
    model = ServedModel(spec("multiclass"), Estimator([[0.1, 0.9], [0.6, 0.4], [math.nan, 1.0]], ["a", "b"]))
    assert model.predict(ROWS) == [("b", {"a": 0.1, "b": 0.9}), ("a", {"a": 0.6, "b": 0.4}), None]


def test_regression_answers_numbers_and_nothing_where_they_are_not_finite() -> None:
    assert ServedModel(spec("regression"), Estimator([1.5, math.inf, -2])).predict(ROWS) == [
        (1.5, None),
        None,
        (-2.0, None),
    ]


def test_missing_values_and_unknown_features_reach_the_model_as_missing_and_not_at_all() -> None:
    estimator = Estimator([0.0, 0.0, 0.0])
    ServedModel(spec("regression"), estimator).predict(ROWS)
    frame = estimator.frame
    assert list(frame.columns) == ["x", "c"]
    assert frame["x"].dtype == float
    assert frame["x"].isna().tolist() == [False, True, False]
    assert frame["c"].isna().tolist() == [False, True, False]
    assert frame["c"][2] == "5"


@pytest.mark.parametrize("classes", [[0], [0, 2], ["a", "b"], [0, 1, 2]])
def test_refuses_a_binary_model_that_does_not_know_the_positive_label(classes: list[Any]) -> None:
    with pytest.raises(ArtifactError, match="positive label 1"):
        ServedModel(spec("binary"), Estimator([], classes))


def test_refuses_a_model_that_loses_rows() -> None:
    with pytest.raises(ValueError, match="2 answers to 3 rows"):
        ServedModel(spec("regression"), Estimator([1.0, 2.0])).predict(ROWS)
