"""An ONNX file as an estimator: named columns in, labels and probabilities out, as scikit-learn's would give them.

Inputs are either one tensor a feature, called like it and of shape (n, 1) or (n,), or one of shape (n, features) with
the features in the specification's order. Outputs are a regression's one number a row; or labels, probabilities (of
shape (n, classes), or ZipMap's sequence of maps), or both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.onnx_check import parsed
from schemas.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd

CLASSES = "classes"
"""Metadata of the file that names the classes, a JSON array in the order of the probabilities' columns."""
_FLOATS = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64"}
_WHOLE = {
    f"tensor({kind})": kind for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_BOOL, _TEXT = "tensor(bool)", "tensor(string)"
_MARGIN = 1e-4
_SUM_TOLERANCE = 1e-3


def load_onnx(data: bytes, where: str, allowed: Iterable[str] = ()) -> OnnxModel:
    """Make an ONNX file ready to predict, on one thread.

    Parameters
    ----------
    data : bytes
        Checked against hash and signature by the caller.
    where : str
        How errors name it.
    allowed : iterable of str
        Operator domains beside the standard's.

    Raises
    ------
    ArtifactError
        Not an ONNX file, one that holds what is not allowed, or one whose inputs and outputs fit no model.
    """
    proto = parsed(data, where, allowed)
    named = _classes(proto, where)
    del proto
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: serving answers batch by batch, and a pool's threads would spin beside the traffic.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"cannot be loaded: {_line(error)}", where=where) from error
    return _model(session, named, where)


class OnnxModel:
    """A regression, or a classifier that gives labels only; scikit-learn's ``predict``.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    output : str
        Name of the output that `predict` returns.
    where : str
        How errors name the file.
    """

    def __init__(self, session: Any, output: str, where: str) -> None:
        self._session = session
        self._output = output
        self._where = where
        self._inputs = [(one.name, one.type, list(one.shape)) for one in session.get_inputs()]
        for name, _, shape in self._inputs:
            if not shape or isinstance(shape[0], int) or len(shape) > 2:
                raise ArtifactError(
                    f"the input {name!r} has the shape {shape}: rows cannot be given in batches",
                    where=where,
                    remedy="export it with a first axis of any length, and at most two axes",
                )

    def predict(self, frame: pd.DataFrame) -> NDArray[Any]:
        """One answer a row.

        Raises
        ------
        ArtifactError
            The inputs are not the frame's columns.
        ValueError
            A value is missing, or not whole, where the input's type has no word for it.
        """
        return np.asarray(self._run(frame, [self._output])[0]).reshape(-1)

    def _run(self, frame: pd.DataFrame, outputs: Sequence[str]) -> list[Any]:
        found: list[Any] = self._session.run(list(outputs), self._feeds(frame))
        return found

    def _feeds(self, frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
        columns = list(frame.columns)
        if all(name in columns and (len(shape) < 2 or shape[1] in {1, None}) for name, _, shape in self._inputs):
            return {
                name: self._column(frame, name, kind).reshape((-1, 1) if len(shape) == 2 else (-1,))
                for name, kind, shape in self._inputs
            }
        name, kind, shape = self._inputs[0]
        width = shape[1] if len(shape) == 2 else 1
        if len(self._inputs) != 1 or (isinstance(width, int) and width != len(columns)):
            said = ", ".join(f"{name} {shape}" for name, _, shape in self._inputs)
            raise ArtifactError(
                f"the inputs {said} are not the features {', '.join(columns)}",
                where=self._where,
                remedy="export it with one input a feature, called like it, or one of shape (rows, features)",
            )
        return {name: np.stack([self._column(frame, column, kind) for column in columns], axis=1)}

    def _column(self, frame: pd.DataFrame, name: str, kind: str) -> NDArray[Any]:
        column = frame[name]
        if (column.dtype == "str") != (kind == _TEXT):
            raise ArtifactError(
                f"the feature {name!r} is {'text' if column.dtype == 'str' else 'a number'}, its input is {kind}",
                where=self._where,
                remedy="categorical features take an input of text; with features of both kinds, one input a feature",
            )
        if kind == _TEXT:
            text: NDArray[Any] = column.astype(object).fillna("").to_numpy()
            return text
        values = column.to_numpy(dtype="float64")
        if kind in _FLOATS:
            return values.astype(_FLOATS[kind])
        if kind not in _WHOLE and kind != _BOOL:
            raise ArtifactError(f"the input {name!r} is {kind}, which no feature is", where=self._where)
        if np.isnan(values).any():
            raise ValueError(f"{name} is missing, and the model's input {kind} has no word for that")
        if (values != np.floor(values)).any():
            raise ValueError(f"{name} is not whole, and the model's input is {kind}")
        if kind == _BOOL:
            return np.asarray(values != 0)
        bounds = np.iinfo(_WHOLE[kind])
        if ((values < float(bounds.min)) | (values >= float(bounds.max))).any():
            raise ValueError(f"{name} is more than the model's input {kind} holds")
        return values.astype(_WHOLE[kind])


class OnnxClassifier(OnnxModel):
    """A classifier with probabilities; scikit-learn's ``classes_`` and ``predict_proba`` besides.

    Parameters
    ----------
    labels : str or None
        Name of the output with the predicted label.
    probabilities : str
    classes : sequence
        In the order of the probabilities' columns.
    guessed : bool
        The file does not name its classes: they are 0, 1, … as long as its labels do not contradict.
    """

    def __init__(
        self, session: Any, where: str, *, labels: str | None, probabilities: str, classes: Sequence[Any], guessed: bool
    ) -> None:
        super().__init__(session, labels or probabilities, where)
        self.classes_ = np.asarray(classes)
        self._labels = labels
        self._probabilities = probabilities
        self._guessed = guessed

    def predict(self, frame: pd.DataFrame) -> NDArray[Any]:
        """The label of each row."""
        if self._labels is not None:
            return super().predict(frame)
        return np.asarray(self.classes_[self.predict_proba(frame).argmax(axis=1)])

    def predict_proba(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Shape (n, classes).

        Raises
        ------
        ArtifactError, ValueError
            As `predict`; the answer is no distribution over the classes.
        """
        contradicts = self._labels is not None and self._guessed
        wanted = [self._probabilities, *([self._labels] if contradicts and self._labels else [])]
        answers = self._run(frame, wanted)
        found = self._table(answers[0], len(frame))
        known = found[np.isfinite(found).all(axis=1)]
        if (known < -_SUM_TOLERANCE).any() or (abs(known.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
            raise ArtifactError(
                f"the output {self._probabilities!r} is no probability of each class",
                where=self._where,
                remedy="end the graph with Softmax (of two classes and one number: Sigmoid)",
            )
        if contradicts:
            self._compare(found, np.asarray(answers[1]).reshape(-1))
        return found

    def _table(self, answer: Any, rows: int) -> NDArray[np.float64]:
        classes = self.classes_.tolist()
        if isinstance(answer, list):
            try:
                found = np.array([[row[name] for name in classes] for row in answer], dtype=np.float64)
            except KeyError as error:
                raise ArtifactError(f"an answer lacks the class {error}", where=self._where) from error
            return found.reshape(rows, len(classes))
        found = np.asarray(answer, dtype=np.float64).reshape(rows, -1)
        if found.shape[1] == 1 and len(classes) == 2:
            found = np.hstack([1.0 - found, found])
        if found.shape[1] != len(classes):
            raise ArtifactError(
                f"gives {found.shape[1]} probabilities a row, and there are {len(classes)} classes", where=self._where
            )
        return found

    def _compare(self, found: NDArray[np.float64], labels: NDArray[Any]) -> None:
        ranked = np.sort(found, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > _MARGIN
        if (self.classes_[found.argmax(axis=1)][clear] != labels[clear]).any():
            raise ArtifactError(
                "it does not name its classes, and its labels are not 0, 1, … in the order of the probabilities",
                where=self._where,
                remedy=f'write them into its metadata: "{CLASSES}", a JSON array in the order of the columns',
            )


def _model(session: Any, named: list[Any] | None, where: str) -> OnnxModel:
    outputs = {one.name: (one.type, list(one.shape)) for one in session.get_outputs()}
    labels = next((name for name, (kind, _) in outputs.items() if kind in {*_WHOLE, _BOOL, _TEXT}), None)
    numbers = [name for name, (kind, _) in outputs.items() if kind in _FLOATS or kind.startswith("seq(map(")]
    if len(numbers) > 1:
        # Converters give decision values beside probabilities.
        numbers = [name for name in numbers if "prob" in name.lower()]
    if len(numbers) > 1 or (not numbers and labels is None):
        raise ArtifactError(
            f"its outputs {', '.join(outputs) or '(none)'} are no label, probabilities or number",
            where=where,
            remedy='give one output of numbers, and of several call one "probabilities"',
        )
    if not numbers:
        assert labels is not None
        return OnnxModel(session, labels, where)
    _, shape = outputs[numbers[0]]
    width = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0
    if named is None and labels is None and width < 2:
        return OnnxModel(session, numbers[0], where)
    classes = named if named is not None else list(range(width))
    if len(classes) < 2:
        raise ArtifactError(
            "it does not name its classes",
            where=where,
            remedy=f'write them into its metadata: "{CLASSES}", a JSON array in the order of the columns',
        )
    if labels is not None and outputs[labels][0] == _BOOL:
        classes = [bool(one) for one in classes]
    return OnnxClassifier(
        session, where, labels=labels, probabilities=numbers[0], classes=classes, guessed=named is None
    )


def _classes(proto: Any, where: str) -> list[Any] | None:
    """The classes that a file names: in its metadata, at its ZipMap, or at the operator that classifies."""
    metadata: Mapping[str, str] = {one.key: one.value for one in proto.metadata_props}
    if CLASSES in metadata:
        try:
            found = json.loads(metadata[CLASSES])
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(one, str | int | float | bool) for one in found):
            raise ArtifactError(f"its metadata {CLASSES!r} is no JSON array of classes", where=where)
        return found
    lists: dict[str, list[list[Any]]] = {"ZipMap": [], "": []}
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in {"classlabels_ints", "classlabels_int64s"} and attribute.ints:
                lists["ZipMap" if node.op_type == "ZipMap" else ""].append(list(attribute.ints))
            elif attribute.name == "classlabels_strings" and attribute.strings:
                text = [one.decode(errors="replace") for one in attribute.strings]
                lists["ZipMap" if node.op_type == "ZipMap" else ""].append(text)
    for named in lists.values():
        if named and all(one == named[0] for one in named):
            return named[0]
    return None


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
