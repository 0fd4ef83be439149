"""A loaded version: verified, warm, and one call per batch of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.artifacts import ArtifactStore, check_in_child, load_model
from agents.features import feature_frame
from schemas.errors import ArtifactError, DriftlineError
from schemas.events import Label, Probability, Scalar, VersionState
from schemas.specification import Specification, parse
from streams.panes import class_key

Answer = tuple[Label, Probability | None]
_PLAIN: Mapping[str, Scalar] = {"numeric": 0.0, "categorical": "a", "boolean": False}


class ServedModel:
    """One version of one model, ready to predict.

    Parameters
    ----------
    spec : Specification
        Task, features, threshold and positive label.
    estimator : object
        scikit-learn's interface: `predict`, and `predict_proba` with `classes_` for classifiers.

    Raises
    ------
    ArtifactError
        A binary model does not know the positive label.
    """

    def __init__(self, spec: Specification, estimator: Any) -> None:
        self.spec = spec
        self._estimator = estimator
        self._classes: list[Label] = []
        self._positive = -1
        if spec.task == "regression":
            return
        self._classes = [_plain(label) for label in getattr(estimator, "classes_", [])]
        keys = [class_key(label) for label in self._classes]
        if spec.task == "binary":
            wanted = class_key(spec.model.positive)
            if len(keys) != 2 or wanted not in keys:
                raise ArtifactError(
                    f"a binary model with the positive label {wanted} has the classes {', '.join(keys) or 'none'}",
                    where=spec.name,
                    remedy="train on both classes, and let [model] positive name one of them",
                )
            self._positive = keys.index(wanted)

    def predict(self, rows: Sequence[Mapping[str, Scalar]]) -> list[Answer | None]:
        """Answer `rows` in one call; None where the answer is not finite.

        Raises
        ------
        Exception
            Whatever the estimator raises: the caller finds the rows it cannot take.
        """
        columns = {name: [row.get(name) for row in rows] for name in self.spec.features}
        frame = feature_frame(self.spec, columns, len(rows))
        if self.spec.task == "regression":
            values = np.asarray(self._estimator.predict(frame), dtype=float).ravel()
            answers: list[Answer | None] = [(v, None) if math.isfinite(v) else None for v in values.tolist()]
        elif hasattr(self._estimator, "predict_proba"):
            answers = self._classified(np.asarray(self._estimator.predict_proba(frame), dtype=float))
        else:
            answers = [(_plain(label), None) for label in self._estimator.predict(frame)]
        if len(answers) != len(rows):
            raise ValueError(f"the model gave {len(answers)} answers to {len(rows)} rows")
        return answers

    def _classified(self, probabilities: np.ndarray[Any, np.dtype[np.float64]]) -> list[Answer | None]:
        classes = self._classes
        finite = np.isfinite(probabilities).all(axis=1).tolist()
        if self.spec.task == "binary":
            positive, negative = classes[self._positive], classes[1 - self._positive]
            threshold = self.spec.model.threshold
            scores = probabilities[:, self._positive].clip(0.0, 1.0).tolist()
            return [
                (positive if score >= threshold else negative, score) if good else None
                for score, good in zip(scores, finite, strict=True)
            ]
        keys = [class_key(label) for label in classes]
        best = probabilities.argmax(axis=1).tolist()
        rows = probabilities.clip(0.0, 1.0).tolist()
        return [
            (classes[top], dict(zip(keys, row, strict=True))) if good else None
            for top, row, good in zip(best, rows, finite, strict=True)
        ]


def specification(store: ArtifactStore, version: VersionState, where: str = "") -> Specification:
    """The specification of a version. Raises `ArtifactError` where it is missing, altered or not signed."""
    text = store.get(version.specification)
    # It may widen what the artifact may hold: it counts only where this installation signed it.
    store.verify(version.specification, "specification")
    return parse(text.decode(), file=f"{where or version.specification[:12]}: driftline.toml")


def load(store: ArtifactStore, model: str, version: VersionState) -> ServedModel:
    """Check a version in a child process, then load it here and predict once: no batch has to be the slow first one.

    Raises
    ------
    ArtifactError
        Missing, altered, unsigned, unsafe, or it does not predict.
    """
    where = f"{model} version {version.version}"
    spec = specification(store, version, where)
    allowed = spec.model.allowed_types
    check_in_child(store, version.artifact, features=spec.features, allowed=allowed)
    try:
        served = ServedModel(spec, load_model(store, version.artifact, allowed))
        served.predict([{name: _PLAIN[kind] for name, kind in spec.features.items()}] * 2)
    except DriftlineError:
        raise
    except Exception as error:
        raise ArtifactError(f"does not predict: {type(error).__name__}: {error}", where=where) from error
    return served


def _plain(label: Any) -> Label:
    """A numpy scalar as the Python value that JSON carries."""
    value: Label = label.item() if isinstance(label, np.generic) else label
    return value
