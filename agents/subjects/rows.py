"""Tables of people's rows at rest: what is personal of a row stands in one column, under the key of its subject.

The file is Parquet. Ids, event times and open columns stay as they are; everything else of a row, labels too, is one
sealed text. Whoever is erased is missing from the table when it is read again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from agents.subjects.keys import SubjectKeys
from agents.subjects.sealing import SEALED, SubjectKey, key_id, key_ids, place
from schemas.errors import ConflictError, StateError
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

META = b"driftline.sealed"
_PLACE = "rows"


class Layout(msgspec.Struct, frozen=True):
    """How the table was: its columns in their order with their types; those of `sealed` are in the texts."""

    model: str
    id: str
    columns: list[tuple[str, str]]
    sealed: list[str]


@dataclass
class Losses:
    """Rows that were there and cannot be read any more."""

    erased: int = 0


def subjects_of(table: pd.DataFrame, column: str) -> list[str]:
    """The subjects of a normalised table, row by row."""
    found: list[str] = table[column].tolist()
    return found


def ids_of(spec: Specification, keys: SubjectKeys, *tables: pd.DataFrame | None) -> set[bytes]:
    """Ids of the keys of all whose rows some tables hold; nobody's where the specification names no subject.

    Raises
    ------
    ConflictError
        Somebody was erased since the tables were read.
    """
    if spec.data.subject is None:
        return set()
    names = {name for table in tables if table is not None for name in subjects_of(table, spec.data.subject)}
    known = keys.of_subjects(names, make=False)
    if missing := len(names) - len(known):
        raise ConflictError(
            f"{missing} people were erased while this was trained on their rows",
            where=f"model {spec.name}",
            remedy="train again: their rows are left out then",
        )
    return {key.id for key in known.values()}


def sealed_bytes(table: pd.DataFrame, spec: Specification, keys: SubjectKeys) -> bytes:
    """A normalised table as the bytes of a Parquet file, sealed row by row.

    Raises
    ------
    DatabaseUnavailableError
    """
    import pandas as pd

    assert spec.data.subject is not None
    data = spec.data
    visible = {data.id, data.event_time, *spec.open_names}
    hidden = [str(name) for name in table.columns if name not in visible]
    names = subjects_of(table, spec.data.subject)
    known = keys.of_subjects(names)
    columns = {name: _plain(table[name]) for name in hidden}
    texts = [
        known[name].seal({"f": dict(zip(hidden, values, strict=True))}, place(_PLACE, spec.name, id))
        for name, id, *values in zip(names, table[data.id], *columns.values(), strict=True)
    ]
    kept = table[[name for name in table.columns if name in visible]].assign(**{SEALED: pd.Series(texts, dtype="str")})
    layout = Layout(spec.name, data.id, [(str(name), str(table[name].dtype)) for name in table.columns], hidden)
    made = pa.Table.from_pandas(kept, preserve_index=False)
    sink = io.BytesIO()
    meta = {**(made.schema.metadata or {}), META: msgspec.json.encode(layout)}
    pq.write_table(made.replace_schema_metadata(meta), sink, compression="zstd")
    return sink.getvalue()


def layout_of(data: bytes) -> Layout | None:
    """How a sealed table was; None where the bytes are of one that is not sealed."""
    meta = pq.read_schema(io.BytesIO(data)).metadata or {}
    return msgspec.json.decode(meta[META], type=Layout) if META in meta else None


def opened_table(data: bytes, layout: Layout, keys: SubjectKeys, losses: Losses | None = None) -> pd.DataFrame:
    """The table of a sealed file, without the rows of whoever was erased since.

    Parameters
    ----------
    losses : Losses, optional
        Is told how many rows that are.

    Raises
    ------
    StateError
        A row was altered.
    DatabaseUnavailableError
    """
    import pandas as pd

    table = pd.read_parquet(io.BytesIO(data))
    texts = table[SEALED].tolist()
    known = keys.of_ids(key_ids(texts))
    values: dict[str, list[Any]] = {name: [] for name in layout.sealed}
    kept = []
    for at, (text, id) in enumerate(zip(texts, table[layout.id], strict=True)):
        key = known.get(key_id(text) or b"")
        if key is None:
            continue
        kept.append(at)
        for name, value in _row(key, text, layout, str(id)).items():
            values[name].append(value)
    if losses is not None:
        losses.erased += len(texts) - len(kept)
    table = table.iloc[kept].reset_index(drop=True)
    made = {name: _column(values[name], dtype) if name in values else table[name] for name, dtype in layout.columns}
    return pd.DataFrame(made, columns=list(made))


def _row(key: SubjectKey, text: str, layout: Layout, id: str) -> Mapping[str, Any]:
    found = key.open(text, place(_PLACE, layout.model, id))
    if found is None:
        raise StateError(f"the row {id!r} does not open: it was altered", where=f"table of {layout.model}")
    return found["f"]


def _plain(column: pd.Series[Any]) -> list[Any]:
    """A column's values as JSON has them; times in milliseconds."""
    import pandas as pd

    missing = column.isna().to_numpy(dtype=bool)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        values: Iterable[Any] = column.astype("datetime64[ms, UTC]").astype("int64").tolist()
    else:
        values = column.tolist()
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def _column(values: list[Any], dtype: str) -> Any:
    import numpy as np
    import pandas as pd

    if dtype == "float64":
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if dtype.startswith("datetime64"):
        return pd.to_datetime(pd.array(values, dtype="Int64"), unit="ms", utc=True).astype(dtype)
    return pd.Series(values, dtype=dtype)
