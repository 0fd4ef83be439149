"""The training table: read from a file, checked, and brought into one form.

Times become UTC, ids text, feature columns what `agents.features.feature_frame` makes of them, labels one dtype with
missing values; rows stand in order of event time and id. Each mistake of a table is an error that names the column.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agents.features import feature_frame
from agents.subjects.naming import named_subjects
from schemas.errors import TrainingError
from schemas.specification import FeatureKind, Specification

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3


def read_table(path: Path, spec: Specification, *, also: Mapping[str, FeatureKind] | None = None) -> pd.DataFrame:
    """Read a Parquet or CSV file (``.csv``, ``.csv.gz``) and normalise it.

    Parameters
    ----------
    also : mapping of str to str, optional
        Features by kind that are kept beside the specification's where the file has them.

    Raises
    ------
    TrainingError
        The file cannot be read, or the table is not usable (`normalise`).
    """
    return of_frame(read_frame(path, spec), spec, also=also, where=str(path))


def of_frame(
    frame: pd.DataFrame, spec: Specification, *, where: str, also: Mapping[str, FeatureKind] | None = None
) -> pd.DataFrame:
    """Normalise a table, with features that are kept beside the specification's where it has them.

    Raises
    ------
    TrainingError
        As `normalise`.
    """
    more = {name: kind for name, kind in (also or {}).items() if name in frame.columns and name not in spec.features}
    if more:
        spec = msgspec.structs.replace(spec, features={**spec.features, **more})
    return normalise(frame, spec, where=where)


def read_frame(path: Path, spec: Specification, *, option: str = "--data", text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a Parquet or CSV file as it is; ids, categories and what `text` names as text.

    Raises
    ------
    TrainingError
        There is no such file, its kind is not accepted, or it cannot be read.
    """
    import pandas as pd

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise TrainingError(what, where=str(path), remedy=f"name a Parquet or CSV file with {option}")
    texts = [*text, spec.data.id, *(name for name, kind in spec.features.items() if kind == "categorical")]
    texts += [name for name in spec.data.segments if name not in spec.features]
    texts += [spec.data.subject] if spec.data.subject is not None and spec.data.subject not in spec.features else []
    try:
        if path.suffix in {".parquet", ".pq"}:
            return pd.read_parquet(path)
        if path.suffix == ".csv" or path.name.endswith(".csv.gz"):
            # Ids and categories are text: "007" must not become 7.
            return pd.read_csv(path, dtype=dict.fromkeys(texts, "str"), low_memory=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # the last two: a packed file that was cut off
        kind = "Parquet" if path.suffix in {".parquet", ".pq"} else "CSV"
        remedies = {
            "Parquet": "write the file again, or give it as CSV",
            "CSV": "write comma-separated rows in UTF-8 with one line of column names, or give a Parquet file",
        }
        said = str(error).strip()
        raise TrainingError(f"the table cannot be read: {said}", where=str(path), remedy=remedies[kind]) from error
    raise TrainingError(
        f"{path.suffix or 'a file without suffix'} is not accepted",
        where=str(path),
        remedy="accepted: .parquet, .csv, .csv.gz",
    )


def check_columns(frame: pd.DataFrame, spec: Specification, where: str) -> None:
    """Refuse a table that lacks columns of the specification. Raises `TrainingError`."""
    data = spec.data
    needed = [data.id, data.event_time, data.label, *([data.label_time] if data.label_time else [])]
    needed += [data.subject] if data.subject is not None else []
    needed = list(dict.fromkeys([*needed, *spec.features, *data.segments]))
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise TrainingError(
            f"the table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            where=where,
            remedy=f"it has: {', '.join(map(str, frame.columns[:40]))}; names come from driftline.toml",
        )


def normalise(frame: pd.DataFrame, spec: Specification, *, where: str) -> pd.DataFrame:
    """Check a table and bring it into the form that pipelines are given.

    Raises
    ------
    TrainingError
        A column is missing; ids are missing or double; times cannot be read; labels are of the wrong type, all
        unknown, or of one class only. `where` names table and column.
    """
    import pandas as pd

    data = spec.data
    check_columns(frame, spec, where)
    out = pd.DataFrame({data.id: _ids(frame[data.id], where)})
    out[data.event_time] = _times(frame[data.event_time], where, required=True)
    if data.label_time is not None:
        out[data.label_time] = _times(frame[data.label_time], where, required=False)
    out[data.label] = _labels(frame[data.label], spec, where)
    _check_numbers(frame, spec, where)
    features = feature_frame(spec, {name: frame[name] for name in spec.features}, rows=len(frame))
    for name in data.segments:
        if name not in spec.features:
            out[name] = frame[name].astype("str").to_numpy()
    if data.subject is not None and data.subject not in spec.features:
        out[data.subject] = named_subjects(frame[data.subject], where)
    out = pd.concat([out, features], axis=1)
    if _in_order(out[data.event_time], out[data.id]):
        return out
    return out.sort_values([data.event_time, data.id], kind="stable", ignore_index=True)


def _in_order(times: pd.Series[Any], ids: pd.Series[Any]) -> bool:
    """Whether rows stand in order already, as the archive gives them: sorting text is slow."""
    at = times.astype("int64").to_numpy()
    if (at[1:] < at[:-1]).any():
        return False
    tied = np.flatnonzero(at[1:] == at[:-1])
    first, second = ids.iloc[tied].tolist(), ids.iloc[tied + 1].tolist()
    return all(one <= other for one, other in zip(first, second, strict=True))


def check_labels(frame: pd.DataFrame, spec: Specification, *, where: str) -> None:
    """Refuse a table from which nothing can be learnt.

    Raises
    ------
    TrainingError
        No label is known, or a classifier would see one class only.
    """
    from streams.panes import class_key

    known = frame[spec.data.label].dropna()
    column = f"{where} [{spec.data.label}]"
    if known.empty:
        raise TrainingError(
            f"none of the {len(frame)} rows has a label", where=column, remedy="wait for labels, or give a table"
        )
    if spec.task == "regression":
        return
    classes = list(dict.fromkeys(class_key(value) for value in known.unique().tolist()))
    if len(classes) < 2:
        raise TrainingError(
            f"all {len(known)} labels are {classes[0]!r}: there is nothing to tell apart",
            where=column,
            remedy="give more rows, or rows of a longer time",
        )
    if spec.task == "binary":
        positive = class_key(spec.model.positive)
        if len(classes) > 2 or positive not in classes:
            shown = ", ".join(classes[:5])
            raise TrainingError(
                f"the task is binary with the positive label {positive!r}, and the labels are {shown}",
                where=column,
                remedy='set positive in [model], or task = "multiclass"',
            )


def _ids(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    place = f"{where} [{column.name}]"
    if (count := int(column.isna().sum())) > 0:
        raise TrainingError(f"{count} rows have no id", where=place, remedy="give every row an id")
    ids = column.astype("str").reset_index(drop=True)
    double = ids[ids.duplicated()]
    if len(double):
        shown = ", ".join(double.unique()[:SHOWN])
        raise TrainingError(
            f"{len(double)} rows repeat the id of another: {shown}{' …' * (double.nunique() > SHOWN)}",
            where=place,
            remedy="keep one row an id",
        )
    return ids


def _times(column: pd.Series[Any], where: str, *, required: bool) -> Any:
    import pandas as pd

    place = f"{where} [{column.name}]"
    if pd.api.types.is_numeric_dtype(column.dtype) and column.notna().any():
        raise TrainingError(
            "numbers are no times", where=place, remedy="write times such as 2013-01-31T18:05:00Z, or use a time type"
        )
    try:
        times = pd.to_datetime(column, utc=True, format="ISO8601" if _is_text(column) else None)
    except (ValueError, TypeError, OverflowError) as error:
        raise TrainingError(
            f"a time cannot be read: {str(error).splitlines()[0]}",
            where=place,
            remedy="write times such as 2013-01-31T18:05:00Z; without a zone they are UTC",
        ) from error
    if required and (count := int(times.isna().sum())) > 0:
        raise TrainingError(f"{count} rows have no event time", where=place, remedy="leave those rows out")
    return times.astype("datetime64[ms, UTC]").reset_index(drop=True)


def _is_text(column: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_string_dtype(column.dtype)) or column.dtype == object


def _labels(column: pd.Series[Any], spec: Specification, where: str) -> Any:
    """Labels as float64 (regression), Int64, boolean, Float64 or str, missing ones as such."""
    import pandas as pd

    place = f"{where} [{column.name}]"
    values = column.reset_index(drop=True)
    if spec.task == "regression":
        try:
            return values.astype("Float64").astype("float64")
        except (TypeError, ValueError) as error:
            raise TrainingError(f"a label is no number: {error}", where=place) from error
    if pd.api.types.is_bool_dtype(values.dtype) or _all(values, (bool,)):
        return values.astype("boolean")
    if pd.api.types.is_numeric_dtype(values.dtype) or _all(values, (int, float)):
        numbers = values.astype("Float64")
        whole = bool((numbers.dropna() % 1 == 0).all())
        return numbers.astype("Int64") if whole else numbers
    return values.astype("str")


def _all(values: pd.Series[Any], kinds: Sequence[type]) -> bool:
    known = values.dropna()
    return len(known) > 0 and values.dtype == object and all(isinstance(value, tuple(kinds)) for value in known)


def _check_numbers(frame: pd.DataFrame, spec: Specification, where: str) -> None:
    import pandas as pd

    for name, kind in spec.features.items():
        if kind == "categorical" or not _is_text(frame[name]):
            continue
        strange = [value for value in frame[name].dropna() if isinstance(value, str)]
        if strange:
            raise TrainingError(
                f"the feature is {kind} and {len(strange)} rows hold text such as {strange[0]!r}",
                where=f"{where} [{name}]",
                remedy=f'mend the table, or write {name} = "categorical" in [features]',
            )
        if pd.api.types.is_string_dtype(frame[name].dtype) and frame[name].notna().any():
            raise TrainingError(f"the feature is {kind} and its column is text", where=f"{where} [{name}]")
