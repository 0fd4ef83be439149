"""Small ONNX graphs, written by hand: each answers something a test can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, TEXT, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str | None] = (None, 1)) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def initializer(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    initializers: Sequence[Any] = (),
    *,
    opsets: dict[str, int] | None = None,
    metadata: dict[str, str] | None = None,
) -> Any:
    """A model of these nodes."""
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializer=list(initializers)),
        opset_imports=[helper.make_opsetid(name, number) for name, number in (opsets or {"": 17}).items()],
        ir_version=9,
    )
    helper.set_model_props(made, metadata or {})
    return made


def linear(features: Sequence[str], *, bias: float = 0.0, metadata: dict[str, str] | None = None) -> Any:
    """A regression: the sum of the features and `bias`, each an input of its own."""
    nodes = [helper.make_node("Sum", [*features, "bias"], ["y"])]
    bias_of = initializer("bias", np.array([[bias]], np.float32))
    return graph(nodes, [value(name) for name in features], [value("y")], [bias_of], metadata=metadata)


def coin(share: float) -> bytes:
    """As `models.coin`: every row of numeric ``x`` and text ``origin`` has the probability `share`."""
    both = np.array([[1.0 - share, share]], np.float32)
    nodes = [
        # Nothing of a row counts but that there is one.
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Cast", ["missing"], ["number"], to=FLOAT),
        helper.make_node("Mul", ["number", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "both"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    return bytes(
        graph(
            nodes,
            [value("x"), value("origin", TEXT)],
            [value("label", INT64, (None,)), value("probabilities", FLOAT, (None, 2))],
            [initializer("zero", np.array([[0.0]], np.float32)), initializer("both", both)],
        ).SerializeToString()
    )
