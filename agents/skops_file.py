"""Models as skops files: written so that the same model gives the same bytes, read only where every type is allowed.

skops names what it stores by memory addresses and stamps each entry with the time, so that two files of one model
differ. `dump_model` numbers instead and stamps nothing: a version that is made again has the same hash.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from schemas.errors import ArtifactError

MAX_UNPACKED_BYTES = 1_000_000_000
MAX_RATIO = 200
_SCHEMA = "schema.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)

ALLOWED_TYPES = frozenset(
    {
        # Parts of scikit-learn's own estimators that skops does not list by itself.
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
        "numpy.dtype",
        # HistGradientBoosting keeps `partial(check_array, …)` for its categorical columns; what a partial wraps is a
        # type of its own in the file and must be on this list too.
        "functools.partial",
        "sklearn.utils.validation.check_array",
    }
)
"""What may be loaded beside skops' own list; a specification adds to it with ``[model] allowed_types``."""


def dump_model(estimator: object) -> bytes:
    """An estimator as the bytes of a skops file; equal estimators give equal bytes."""
    import skops.io

    return canonical(skops.io.dumps(estimator))


def canonical(data: bytes) -> bytes:
    """The same skops file without addresses and times."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        names = [name for name in source.namelist() if name != _SCHEMA]
        numbering = _Numbering(names)
        schema = numbering.of(json.loads(source.read(_SCHEMA)))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
            for old, new in sorted(numbering.files.items(), key=lambda item: item[1]):
                target.writestr(zipfile.ZipInfo(new, _LONG_AGO), source.read(old))
            text = json.dumps(schema, indent=2)
            target.writestr(zipfile.ZipInfo(_SCHEMA, _LONG_AGO), text)
    return buffer.getvalue()


class _Numbering:
    """Gives objects and files numbers in the order in which the schema names them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._ids: dict[object, int] = {}
        self.files: dict[str, str] = {}

    def of(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.of(item) for item in node]
        if isinstance(node, str):
            return self._file(node) if node in self._names else node
        if not isinstance(node, dict):
            return node
        if node.get("__loader__") == "SetNode" and isinstance(node.get("content"), list):
            # The order of a set is that of this process's hashes.
            node = {**node, "content": sorted(node["content"], key=_without_ids)}
        out = {key: self.of(value) for key, value in node.items() if key != "__id__"}
        if "__id__" in node:
            # Text and numbers are the same object here and another there: only what they say counts.
            plain = node.get("__loader__") == "JsonNode"
            key = ("json", node.get("__class__"), json.dumps(node.get("content"))) if plain else node["__id__"]
            out["__id__"] = self._ids.setdefault(key, len(self._ids) + 1)
        return out

    def _file(self, name: str) -> str:
        return self.files.setdefault(name, f"{len(self.files) + 1:06d}{PurePosixPath(name).suffix}")


def _without_ids(node: Any) -> str:
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if key != "__id__"}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return json.dumps(bare(node), sort_keys=True)


def load_skops(data: bytes, where: str, allowed: Iterable[str] = ()) -> Any:
    """Build the estimator of a skops file whose size and types are fit.

    Parameters
    ----------
    data : bytes
        Checked against hash and signature by the caller.
    where : str
        How errors name it.
    allowed : iterable of str
        Types beside `ALLOWED_TYPES`.

    Raises
    ------
    ArtifactError
        No skops file, it would unpack to too much, or it has types that are not allowed. Nothing of it ran.
    """
    check_size(data, where)  # before what takes a second to import
    import skops.io

    try:
        unknown = set(skops.io.get_untrusted_types(data=data))
    except Exception as error:
        raise ArtifactError(f"not a skops file: {error}", where=where) from error
    if refused := sorted(unknown - ALLOWED_TYPES - set(allowed)):
        raise ArtifactError(
            f"contains types that are not allowed: {', '.join(refused)}",
            where=where,
            remedy="train with estimators and transformers of scikit-learn, "
            f"or allow what you trust: [model] allowed_types = {json.dumps(refused)}",
        )
    try:
        return skops.io.loads(data, trusted=sorted(unknown))
    except Exception as error:
        raise ArtifactError(f"cannot be loaded: {error}", where=where) from error


def check_size(data: bytes, where: str) -> None:
    """Refuse archives that unpack to far more than they are, from their directory alone. Raises `ArtifactError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ArtifactError("not a skops file, nor ONNX", where=where) from error
    if unpacked > MAX_UNPACKED_BYTES or unpacked > MAX_RATIO * max(len(data), 10_000):
        raise ArtifactError(f"{len(data)} bytes would unpack to {unpacked}", where=where)
