"""What an ONNX file may hold: looked at before any runtime sees it.

A file is parsed as the protobuf it is, and every message of it is visited: graphs inside operators too, and fields that
are given twice. What would make a runtime read another file, run an operator that is not standard, or make much out of
little is refused.

References
----------
https://onnx.ai/onnx/repo-docs/IR.html ; https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from schemas.errors import ArtifactError

MAX_ONNX_BYTES = 500_000_000
"""Parsing it and making it ready to run takes four times as much."""
MAX_MESSAGES = 2_000_000
MAX_SPARSE_ELEMENTS = 10_000_000
"""A sparse tensor is made dense when it is loaded."""
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operators that the ONNX standard defines; a specification adds domains with ``[model] allowed_types``."""
NEVER_OPERATORS = frozenset({"EPContext"})
"""Of other domains, operators that are never allowed: this one names a file to read."""
_REMEDY = "pip install 'driftline[onnx]' where models are registered and served"


def is_onnx(data: bytes) -> bool:
    """Whether bytes begin as an ONNX file: protobuf whose first field is the version of the format."""
    return data[:1] == b"\x08"


def require(where: str) -> None:
    """Raise `ArtifactError` where the libraries that ONNX files need are not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ArtifactError(
            f"an ONNX file needs {' and '.join(missing)}, not installed here", where=where, remedy=_REMEDY
        )


def parsed(data: bytes, where: str, allowed: Iterable[str] = ()) -> Any:
    """The model of a file that is fit to be run.

    Parameters
    ----------
    data : bytes
        Checked against hash and signature by the caller.
    where : str
        How errors name it.
    allowed : iterable of str
        Operator domains beside `STANDARD_DOMAINS`.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ArtifactError
        No ONNX file, one that is too large, or one that holds what is not allowed. Nothing of it ran.
    """
    require(where)
    import onnx
    from google.protobuf.message import DecodeError

    if len(data) > MAX_ONNX_BYTES:
        raise ArtifactError(f"{len(data)} bytes are more than the {MAX_ONNX_BYTES} that are accepted", where=where)
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise ArtifactError("not an ONNX file: cut off or altered, its fields cannot be read", where=where) from error
    if not model.graph.node:
        raise ArtifactError("not an ONNX file: there is no graph in it", where=where)
    _check(model, where, STANDARD_DOMAINS | set(allowed))
    return model


def _check(model: Any, where: str, domains: frozenset[str] | set[str]) -> None:
    from google.protobuf.unknown_fields import UnknownFieldSet

    if model.functions or model.training_info:
        said = "functions of its own" if model.functions else "graphs to train with"
        raise ArtifactError(
            f"holds {said}",
            where=where,
            remedy="inline functions before registering (onnx.inliner.inline_local_functions), and leave out training",
        )
    _check_domains((one.domain for one in model.opset_import), where, domains)
    for message in _messages(model, where):
        if len(UnknownFieldSet(message)):
            raise ArtifactError(
                f"has fields of {message.DESCRIPTOR.name} that this release of onnx does not know",
                where=where,
                remedy="export it for an older version of the format, or install a newer onnx",
            )
        kind = message.DESCRIPTOR.name
        if kind == "NodeProto":
            _check_domains([message.domain], where, domains, operator=message.op_type)
        elif kind == "TensorProto":
            _check_tensor(message, where)
        elif kind == "SparseTensorProto" and (many := math.prod(message.dims)) > MAX_SPARSE_ELEMENTS:
            raise ArtifactError(f"a sparse tensor would have {many} elements", where=where)


def _messages(model: Any, where: str) -> Iterator[Any]:
    """Every message of a file, the outermost first."""
    from google.protobuf.message import Message

    waiting, seen = [model], 0
    while waiting:
        message = waiting.pop()
        seen += 1
        if seen > MAX_MESSAGES:
            raise ArtifactError(f"has more than {MAX_MESSAGES} parts", where=where)
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def _check_domains(named: Iterable[str], where: str, domains: frozenset[str] | set[str], *, operator: str = "") -> None:
    refused = sorted({name for name in named if name not in domains})
    if refused:
        of = f" (operator {operator!r})" * bool(operator)
        raise ArtifactError(
            f"uses operators that are not standard: domain {', '.join(refused)}{of}",
            where=where,
            remedy="export it with the operators of ai.onnx and ai.onnx.ml, "
            f"or allow what you trust: [model] allowed_types = {json.dumps(refused)}",
        )
    if operator in NEVER_OPERATORS:
        raise ArtifactError(f"uses the operator {operator}, which names a file to read", where=where)


def _check_tensor(tensor: Any, where: str) -> None:
    if tensor.external_data or tensor.data_location != tensor.DEFAULT:
        named = next((one.value for one in tensor.external_data if one.key == "location"), "another place")
        raise ArtifactError(
            f"the tensor {tensor.name!r} lies outside of the file, in {named[:80]!r}",
            where=where,
            remedy="save the model as one file: onnx.save(model, FILE, save_as_external_data=False)",
        )
    if any(size < 0 for size in tensor.dims):
        raise ArtifactError(f"the tensor {tensor.name!r} has a negative size", where=where)
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    # Four elements of two bits are the most that a byte holds; the runtime compares exactly.
    held = 4 * (len(tensor.raw_data) + sum(len(getattr(tensor, name)) for name in fields))
    if (said := math.prod(tensor.dims)) > held:
        raise ArtifactError(
            f"the tensor {tensor.name!r} says it has {said} elements, and the file does not hold them", where=where
        )
