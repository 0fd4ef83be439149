"""From a table as it was found to rows that can be replayed; what is wrong is left out and counted.

The online system meets the same mistakes one by one: a record without an id or a time cannot be decoded, one from the
future is quarantined, a second prediction under the same id is refused. Here they are found before the replay, with
the row of the file they stand in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.backtest.leftout import LeftOut
from agents.features import number_of
from agents.retraining.table import check_columns
from schemas.errors import TrainingError
from schemas.events import Scalar
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

    Column = pd.Series[Any]

ROW: Final = "_row"
"""Column with the row's number in the file."""
PREDICTION: Final = "prediction"
PROBABILITY: Final = "probability"
VERSION: Final = "version"
FUTURE_MS: Final = 86_400_000
"""As the join's tolerance: what lies farther ahead is a mistake, and would close every window at once."""


def require_columns(frame: pd.DataFrame, spec: Specification, *, where: str) -> None:
    """Refuse a table that lacks columns of the specification.

    Raises
    ------
    TrainingError
    """
    double = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if double:
        raise TrainingError(
            f"the table has the column {', '.join(double)} more than once", where=where, remedy="keep one of each name"
        )
    check_columns(frame, spec, where)
    if frame.empty:
        raise TrainingError("the table has no rows", where=where, remedy="name a file that holds the history")


def usable_rows(frame: pd.DataFrame, spec: Specification, left: LeftOut, *, now_ms: int, where: str) -> pd.DataFrame:
    """Rows with an id of their own and a possible time, in order of event time and id.

    Parameters
    ----------
    frame : DataFrame
        As read, index 0 … n − 1.
    now_ms : int
        The present: event times beyond it are mistakes.

    Returns
    -------
    DataFrame
        With times in UTC and ids as text; `ROW` is the row of the file.

    Raises
    ------
    TrainingError
        No row is left.
    """
    data = spec.data
    frame = frame.reset_index(drop=True)
    frame[ROW] = np.arange(len(frame))
    times, unreadable = times_of(frame[data.event_time], where)
    frame[data.event_time] = times
    at = times.astype("int64").to_numpy()
    known = times.notna().to_numpy()
    wrong = [
        ("no id", frame[data.id].isna().to_numpy() | (frame[data.id].astype("str") == "").to_numpy(dtype=bool)),
        ("event time cannot be read", unreadable),
        ("no event time", ~known & ~unreadable),
        ("event time before 1970", known & (at < 0)),
        ("event time in the future", known & (at > now_ms + FUTURE_MS)),
    ]
    good = np.ones(len(frame), dtype=bool)
    for reason, mask in wrong:
        left.add("rows", reason, np.flatnonzero(mask & good))
        good &= ~mask
    # What is the same in every column was written twice; the join would call it a duplicate.
    compared = [name for name in frame.columns if name != ROW]
    frame = frame[good]
    if frame.empty:
        raise TrainingError(
            "no row has an id and an event time that can be used",
            where=f"{where} [{data.id}, {data.event_time}]",
            remedy="; ".join(f"{reason}: {int(mask.sum())} rows" for reason, mask in wrong if mask.any()),
        )
    frame[data.id] = frame[data.id].astype("str")
    repeated = frame[data.id].duplicated().to_numpy()
    if repeated.any():
        ids = frame.loc[repeated, data.id].unique()
        among = frame[frame[data.id].isin(ids)]
        same = among[compared].astype("str").duplicated().to_numpy()
        twice = np.isin(frame[ROW].to_numpy(), among.loc[same, ROW].to_numpy()) & repeated
        left.add("rows", "row repeated", frame.loc[twice, ROW].to_numpy())
        left.add("rows", "id repeated with other values", frame.loc[repeated & ~twice, ROW].to_numpy())
        frame = frame[~repeated]
    return frame.sort_values([data.event_time, data.id], kind="stable", ignore_index=True)


def times_of(column: Column, where: str) -> tuple[Column, NDArray[np.bool_]]:
    """Times in UTC to the millisecond, NaT where there is none, and where there is something that cannot be read.

    Raises
    ------
    TrainingError
        The column holds numbers, or nothing in it can be read.
    """
    import pandas as pd

    place = f"{where} [{column.name}]"
    written = column.notna().to_numpy()
    remedy = "write times such as 2013-01-31T18:05:00Z; without a zone they are UTC"
    if pd.api.types.is_numeric_dtype(column.dtype) and written.any():
        raise TrainingError("numbers are no times", where=place, remedy=remedy)
    if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(column.dtype):
        times = pd.to_datetime(column, utc=True)
    else:
        texts = pd.Series([_time_text(value) for value in column.tolist()], dtype=object)
        times = pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")
        if written.any() and times.isna().all():
            shown = next(value for value in column.tolist() if isinstance(value, str) or not pd.isna(value))
            raise TrainingError(f"no time can be read, such as {str(shown)[:40]!r}", where=place, remedy=remedy)
    rounded = times.dt.floor("ms").astype("datetime64[ms, UTC]").reset_index(drop=True)
    return rounded, written & rounded.isna().to_numpy()


def _time_text(value: Any) -> Any:
    """What `to_datetime` may read: text and times; a number among them is no time."""
    from datetime import date

    if isinstance(value, str):
        return value.strip() or None
    return value.isoformat() if isinstance(value, date) else None


def numbers_of(column: Column, *, typed: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Numbers of a column, NaN elsewhere; where it holds something else, and where it is infinite.

    Parameters
    ----------
    typed : bool
        Whether text is text: in CSV nothing has a type, and "1.5" is a number.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column.dtype):
        numbers = column.to_numpy(dtype="float64", na_value=np.nan)
        other = np.zeros(len(numbers), dtype=bool)
    elif typed:
        values = column.tolist()
        numbers = np.array([number_of(value) for value in values], dtype=np.float64)
        other = np.isnan(numbers) & ~np.array([_absent(value) for value in values], dtype=bool)
    else:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
        blank = column.isna().to_numpy() | (column.astype("str").str.strip() == "").to_numpy(dtype=bool)
        other = np.isnan(numbers) & ~blank
    infinite = np.isinf(numbers)
    return np.where(infinite, np.nan, numbers), other, infinite


def _absent(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def scalars_of(column: Column) -> list[Scalar]:
    """Values as JSON carries them: missing ones null, what is no scalar as text."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column.dtype):
        numbers = column.to_numpy(dtype="float64", na_value=np.nan)
        values: list[Scalar] = numbers.tolist()
        for row in np.flatnonzero(~np.isfinite(numbers)).tolist():
            values[row] = None
        return values
    present = column.notna().to_numpy()
    found = column.astype(object).tolist()
    return [_scalar(value) if there else None for value, there in zip(found, present, strict=True)]


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.generic):
        return _scalar(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
