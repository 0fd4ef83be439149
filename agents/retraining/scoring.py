"""What an estimator says of rows: predictions, scores and probabilities, as serving would publish them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.retraining.pipeline import first_line
from schemas.errors import TrainingError
from schemas.specification import Specification
from streams.panes import class_key

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scored:
    """Predictions of n rows.

    `scores`: binary, the probability of the positive class; multiclass, of the predicted class; else None.
    `probabilities`, shape (n, classes), columns in the order of `classes`; multiclass only.
    """

    predictions: NDArray[Any]
    scores: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None
    classes: tuple[object, ...] = ()

    def at(self, rows: NDArray[Any]) -> Scored:
        """The same of some rows (positions or mask)."""
        return Scored(
            self.predictions[rows],
            None if self.scores is None else self.scores[rows],
            None if self.probabilities is None else self.probabilities[rows],
            self.classes,
        )


def score(spec: Specification, estimator: Any, features: pd.DataFrame) -> Scored:
    """Predict rows.

    Raises
    ------
    TrainingError
        What `train` returned cannot predict, or predicts what the task does not know.
    """
    if not hasattr(estimator, "predict"):
        raise TrainingError(
            f"train returned a {type(estimator).__name__}, which cannot predict",
            where="pipeline.py",
            remedy="return a fitted scikit-learn estimator",
        )
    try:
        return _score(spec, estimator, features)
    except TrainingError:
        raise
    except Exception as error:
        raise TrainingError(
            f"the model cannot predict raw feature columns: {first_line(error)}",
            where="pipeline.py",
            remedy="keep every transform inside the estimator (Pipeline, ColumnTransformer)",
        ) from error


def _score(spec: Specification, estimator: Any, features: pd.DataFrame) -> Scored:
    if spec.task == "regression":
        values = np.asarray(estimator.predict(features), dtype=np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise TrainingError("the model predicts numbers that are not finite", where="pipeline.py")
        return Scored(values)
    if not hasattr(estimator, "predict_proba"):
        return Scored(np.asarray(estimator.predict(features)))
    classes = tuple(np.asarray(estimator.classes_).tolist())
    probabilities = np.asarray(estimator.predict_proba(features), dtype=np.float64)
    if probabilities.shape != (len(features), len(classes)) or not np.isfinite(probabilities).all():
        raise TrainingError("predict_proba does not give one finite probability a class", where="pipeline.py")
    names = np.asarray(estimator.classes_)
    if spec.task == "multiclass":
        best = probabilities.argmax(axis=1)
        return Scored(names[best], probabilities[np.arange(len(best)), best], probabilities, classes)
    keys = [class_key(value) for value in classes]
    positive = class_key(spec.model.positive)
    if len(keys) != 2 or positive not in keys:
        raise TrainingError(
            f"the model knows the classes {', '.join(keys)}, and the positive label is {positive}",
            where="pipeline.py",
            remedy="train on labels of both classes",
        )
    chance = probabilities[:, keys.index(positive)]
    predicted = np.where(chance >= spec.model.threshold, keys.index(positive), 1 - keys.index(positive))
    return Scored(names[predicted], chance, None, classes)
