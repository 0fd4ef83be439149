"""What was archived sealed, opened where SQL reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from agents.subjects.keys import SubjectKeys
from agents.subjects.sealing import ERASED, SEALED, SUBJECT, SubjectKey, key_id, key_ids, opened_features, place
from schemas.topics import PREDICTIONS

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_Opened = tuple[dict[str, Any], dict[str, str] | None]


def teach(connection: Any, keys: SubjectKeys) -> None:
    """Give a DuckDB connection the functions that `view` needs."""
    from duckdb.sqltypes import VARCHAR

    def features(model: Any, id: Any, features: Any, segment: Any) -> Any:
        found = _opened(keys, *map(_listed, (model, id, features, segment)))
        return pa.array([_text(one[0]) for one in found], pa.string())

    def segment(model: Any, id: Any, features: Any, segment: Any) -> Any:
        found = _opened(keys, *map(_listed, (model, id, features, segment)))
        return pa.array([one[1] and _text(one[1]) for one in found], pa.string())

    for name, function in (("opened_features", features), ("opened_segment", segment)):
        connection.create_function(
            name, function, [VARCHAR, VARCHAR, VARCHAR, VARCHAR], VARCHAR, type="arrow", null_handling="special"
        )


def view(name: str, source: str) -> str:
    """SQL of a view of predictions over `source`, in which they stand as they came.

    Features gain ``$subject``, the id of the key, and where that is gone ``$erased``: then what is personal is missing.
    """
    sealed = f"contains(features, '\"{SEALED}\"')"
    columns = [
        f"CASE WHEN {sealed} THEN opened_{column}(model, prediction_id, features, segment)"
        f" ELSE {column} END AS {column}"
        for column in ("features", "segment")
    ]
    return f"CREATE VIEW {name} AS SELECT * REPLACE ({', '.join(columns)}) FROM {source}"


def _opened(
    keys: SubjectKeys,
    models: Sequence[str],
    ids: Sequence[str],
    features: Sequence[str],
    segments: Sequence[str | None],
) -> list[_Opened]:
    decoded = [_decode(text) for text in features]
    known = keys.of_ids(key_ids(one.get(SEALED) for one in decoded))
    return [
        _one(known, place(PREDICTIONS, model, id), one, None if segment is None else _decode(segment))
        for model, id, one, segment in zip(models, ids, decoded, segments, strict=True)
    ]


def _one(
    known: dict[bytes, SubjectKey | None], at: Sequence[bytes], features: dict[str, Any], segment: dict[str, str] | None
) -> _Opened:
    id = key_id(features.get(SEALED))
    key = known.get(id) if id is not None else None
    found = None if key is None else opened_features(features, segment, key, at)
    named = {SUBJECT: "" if id is None else id.hex()}
    if found is None:
        visible = {name: value for name, value in features.items() if name != SEALED}
        return {**visible, **named, ERASED: True}, segment
    return {**found[0], **named}, found[1]


def _listed(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _text(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
