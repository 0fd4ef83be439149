"""Datasets of people's rows: what is personal of a row is sealed under the key that its column ``_subject`` names."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from agents.datasets.manifest import Column
from agents.subjects.keys import SubjectKeys
from agents.subjects.naming import subject_text
from agents.subjects.rows import Losses
from agents.subjects.sealing import SEALED, key_id, key_ids
from schemas.errors import ConfigurationError, StateError
from schemas.specification import Specification

SUBJECT: Final = "_subject"
"""Column of ``joined`` with the id of the key of whom the row is about."""
META: Final = b"driftline.sealed.dataset"
PLACE: Final = (b"dataset",)
_PLAIN: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_boolean)


def of_people(table: pa.Table, spec: Specification, keys: SubjectKeys, where: str) -> pa.Table:
    """Rows that come from outside, with the ids of the keys of whom they are about; whoever has none is given one.

    Parameters
    ----------
    spec : Specification
        Names a subject. Without its column `SUBJECT` counts, as `datasets write` writes it: whoever was erased is left
        out.

    Raises
    ------
    ConfigurationError
        Rows do not say whose they are.
    """
    column = spec.data.subject
    assert column is not None
    if column not in table.column_names:
        if SUBJECT in table.column_names:
            return readable(table, keys, where)
        raise ConfigurationError(
            f"the rows of {spec.name} are people's, and there is no column {column!r} that says whose",
            where=where,
            remedy="add that column; with --aggregate where no row is about one person",
        )
    names = [subject_text(value) for value in table[column].to_pylist()]
    if missing := names.count(None):
        raise ConfigurationError(
            f"{missing} rows do not say whose they are", where=f"{where} [{column}]", remedy="leave those rows out"
        )
    known = keys.of_subjects(name for name in names if name is not None)
    ids = pa.array([known[name].id.hex() for name in names if name is not None], pa.string())
    kept = table.drop_columns([SUBJECT]) if SUBJECT in table.column_names else table
    return kept.append_column(SUBJECT, ids)


def readable(table: pa.Table, keys: SubjectKeys, where: str = "--sql") -> pa.Table:
    """The rows of a query without those of whoever was erased.

    Raises
    ------
    ConfigurationError
        Rows do not say whose they are.
    """
    ids = [_id(text) for text in table[SUBJECT].to_pylist()]
    if missing := ids.count(None):
        raise ConfigurationError(
            f"{missing} rows do not say whose they are", where=f"{where} [{SUBJECT}]", remedy="leave those rows out"
        )
    known = keys.of_ids(id for id in ids if id is not None)
    return table.filter(pa.array([known[id] is not None for id in ids if id is not None], pa.bool_()))


def packed(table: pa.Table, visible: Collection[str], keys: SubjectKeys) -> bytes:
    """A table as the bytes of a Parquet file, every row sealed but for its `visible` columns.

    Raises
    ------
    ConfigurationError
        A column has a type that cannot be sealed.
    """
    hidden = [name for name in table.column_names if name not in visible]
    for name in hidden:
        kind = table.schema.field(name).type
        if not (pa.types.is_timestamp(kind) or any(fits(kind) for fits in _PLAIN)):
            raise ConfigurationError(
                f"{name} is of type {kind}, which cannot be encrypted row by row",
                where=f"column {name}",
                remedy=f"make it text: in SQL {name}::VARCHAR AS {name}",
            )
    ids = [bytes.fromhex(text) for text in table[SUBJECT].to_pylist()]
    known = keys.of_ids(ids)
    columns = [_values(table[name]) for name in hidden]
    texts = []
    for id, *values in zip(ids, *columns, strict=True):
        key = known[id]
        assert key is not None, "checked by `readable`"
        texts.append(key.seal({"f": dict(zip(hidden, values, strict=True))}, PLACE))
    kept = table.select([name for name in table.column_names if name in visible])
    kept = kept.append_column(SEALED, pa.array(texts, pa.string()))
    plain = table.schema.remove_metadata()
    sink = io.BytesIO()
    pq.write_table(kept.replace_schema_metadata({META: plain.serialize().to_pybytes()}), sink, compression="zstd")
    return sink.getvalue()


def opened(table: pa.Table, keys: SubjectKeys | None, losses: Losses | None = None) -> pa.Table:
    """The rows of a dataset's file as they were, without those of whoever was erased since.

    Raises
    ------
    StateError
        A row was altered, or there are no keys to read it with.
    """
    meta = (table.schema.metadata or {}).get(META)
    if meta is None:
        return table
    if keys is None:
        raise StateError("the rows are sealed under the keys of their subjects", where="dataset")
    schema = pa.ipc.read_schema(pa.py_buffer(meta))
    texts = table[SEALED].to_pylist()
    known = keys.of_ids(key_ids(texts))
    there = [known.get(key_id(text) or b"") for text in texts]
    if losses is not None:
        losses.erased += there.count(None)
    rows = [key.open(text, PLACE) for key, text in zip(there, texts, strict=True) if key is not None]
    if None in rows:
        raise StateError(f"row {rows.index(None)} does not open: it was altered", where="dataset")
    kept = table.filter(pa.array([key is not None for key in there], pa.bool_()))
    values = [row["f"] for row in rows if row is not None]
    columns = [
        kept[field.name] if field.name in kept.column_names else _column(field, (row[field.name] for row in values))
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def discreet(columns: Mapping[str, Column], visible: Collection[str]) -> dict[str, Column]:
    """Statistics without single values of the columns that are sealed."""
    return {
        name: column
        if name in visible
        else msgspec.structs.replace(column, least=None, most=None, edges=[], counts=[], values={})
        for name, column in columns.items()
    }


def _id(text: object) -> bytes | None:
    try:
        return bytes.fromhex(str(text or "")) or None
    except ValueError:
        return None


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _column(field: pa.Field, values: Iterable[Any]) -> pa.Array:
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).cast(field.type)
    return pa.array(values, field.type)
