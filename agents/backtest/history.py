"""A table of history, ready to be replayed: rows in event time, labels at the time they became known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.backtest.intake import (
    FUTURE_MS,
    PREDICTION,
    ROW,
    numbers_of,
    require_columns,
    scalars_of,
    times_of,
    usable_rows,
)
from agents.backtest.leftout import LeftOut
from agents.backtest.recorded import Recorded, recorded_of
from agents.retraining.table import normalise, read_frame
from agents.retraining.trainer import event_times_ms
from schemas.errors import TrainingError
from schemas.events import Label
from schemas.specification import Specification
from streams.panes import class_key

if TYPE_CHECKING:
    import pandas as pd

NEVER: Final = np.iinfo(np.int64).max
"""Time of a label that never becomes known."""
_json = msgspec.json.Encoder()


@dataclass(frozen=True, kw_only=True)
class History:
    """Rows in order of event time and id; arrays have one entry a row.

    Parameters
    ----------
    spec : Specification
    table : DataFrame
        As pipelines are given it (`agents.retraining.table`).
    ids : list of str
    times_ms : array of int64
    labels : list
        None where never known.
    label_ms : array of int64
        When the label becomes known; `NEVER`.
    features, segments : list of bytes
        JSON objects, as predictions carry them; an empty text where there is no segment.
    segment_keys : mapping of str to array
        ``name=value`` of every row by segment column, empty where it has none.
    recorded : Recorded, optional
        Predictions that the file carries.
    left : LeftOut
    remarks : list of str
    """

    spec: Specification
    table: pd.DataFrame
    ids: list[str]
    times_ms: NDArray[np.int64]
    labels: list[Label | None]
    label_ms: NDArray[np.int64]
    features: Sequence[bytes]
    segments: Sequence[bytes]
    segment_keys: dict[str, NDArray[Any]]
    recorded: Recorded | None
    left: LeftOut
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def known_at(self, from_ms: int, before_ms: int) -> pd.DataFrame:
        """Rows of a stretch of event time with the labels that were known before its end."""
        import pandas as pd

        data = self.spec.data
        first, last = np.searchsorted(self.times_ms, [from_ms, before_ms], side="left")
        table = self.table.iloc[first:last].reset_index(drop=True)
        later = (self.label_ms[first:last] >= before_ms) & table[data.label].notna().to_numpy()
        if later.any():
            table.loc[later, data.label] = None
            if data.label_time is not None:
                table.loc[later, data.label_time] = pd.NaT
        return table


def read_history(path: Path, spec: Specification, *, now_ms: int) -> History:
    """Read a Parquet or CSV file.

    Parameters
    ----------
    now_ms : int
        The present: event times beyond it are mistakes.

    Raises
    ------
    TrainingError
        The file cannot be read, lacks columns, or holds nothing that can be replayed.
    """
    frame = read_frame(path, spec)
    return make_history(frame, spec, now_ms=now_ms, where=str(path), typed=path.suffix in {".parquet", ".pq"})


def make_history(
    frame: pd.DataFrame, spec: Specification, *, now_ms: int, where: str = "table", typed: bool = True
) -> History:
    """A history from a table.

    Parameters
    ----------
    typed : bool
        Whether text is text; in CSV it may be a number.

    Raises
    ------
    TrainingError
    """
    left = LeftOut()
    remarks: list[str] = []
    require_columns(frame, spec, where=where)
    frame = usable_rows(frame, spec, left, now_ms=now_ms, where=where)
    recorded = None
    if PREDICTION in frame.columns and PREDICTION not in {*spec.features, *spec.data.segments, spec.data.label}:
        recorded, frame = recorded_of(frame, spec, left, typed=typed, where=where)
    frame = _typed_features(frame, spec, left, recorded=recorded is not None, typed=typed, where=where)
    clean = frame.copy()
    for name, kind in spec.features.items():
        if kind != "categorical":
            clean[name] = numbers_of(frame[name], typed=typed)[0]
    rows = clean[ROW].to_numpy()
    label_ms = _labels(clean, spec, left, now_ms=now_ms, where=where)
    table = normalise(clean[[name for name in clean.columns if name != ROW]], spec, where=where)
    table = _without_strange_labels(table, spec, left, rows)
    early = label_ms < table[spec.data.event_time].astype("int64").to_numpy()
    if early.any():
        remarks.append(f"{int(early.sum())} labels were known before their event")
    ids = table[spec.data.id].tolist()
    features = _objects({name: scalars_of(frame[name]) for name in spec.features}, len(ids))
    keys = {name: _segment_keys(frame[name], name) for name in spec.data.segments}
    return History(
        spec=spec,
        table=table,
        ids=ids,
        times_ms=event_times_ms(table, spec),
        labels=scalars_of(clean[spec.data.label]) if spec.task == "regression" else _labels_of(clean, spec),
        label_ms=label_ms,
        features=features,
        segments=_segments(keys, len(ids)),
        segment_keys=keys,
        recorded=recorded,
        left=left,
        remarks=remarks,
    )


def _typed_features(
    frame: pd.DataFrame, spec: Specification, left: LeftOut, *, recorded: bool, typed: bool, where: str
) -> pd.DataFrame:
    """Find values of the wrong type. Serving answers no request with one, so that such rows are not replayed; what
    some other model answered is, and monitoring counts the value as unusable.

    Raises
    ------
    TrainingError
        A column is mostly of another type (the specification is wrong, not the rows), or no row is left.
    """
    rows = frame[ROW].to_numpy()
    good = np.ones(len(frame), dtype=bool)
    for name, kind in spec.features.items():
        if kind == "categorical":
            continue
        numbers, other, infinite = numbers_of(frame[name], typed=typed)
        if other.sum() > np.isfinite(numbers).sum():
            raise TrainingError(
                f"the feature is {kind}, and {int(other.sum())} of {len(numbers)} values are text",
                where=f"{where} [{name}]",
                remedy=f'mend the column, or write {name} = "categorical" in [features]',
            )
        area = "values" if recorded else "rows"
        left.add(area, f"{name} is {kind} and holds text", rows[other & good])
        left.add(area, f"{name} is infinite", rows[infinite & good])
        if not recorded:
            good &= ~(other | infinite)
        if not typed and not other.any():
            frame[name] = numbers
    if not good.any():
        raise TrainingError(
            "no row is left: serving would refuse every one",
            where=where,
            remedy="mend values of the wrong type in numeric features",
        )
    return frame if good.all() else frame[good].reset_index(drop=True)


def _labels(clean: pd.DataFrame, spec: Specification, left: LeftOut, *, now_ms: int, where: str) -> NDArray[np.int64]:
    """When each label becomes known; labels that cannot be used are blanked in `clean`."""
    data = spec.data
    rows = clean[ROW].to_numpy()
    if spec.task == "regression":
        numbers, other, infinite = numbers_of(clean[data.label], typed=False)
        left.add("labels", "no number", rows[other | infinite])
        clean[data.label] = numbers
    known = clean[data.label].notna().to_numpy()
    if data.label_time is None:
        at = clean[data.event_time].astype("int64").to_numpy()
        return np.where(known, at, NEVER)
    times, unreadable = times_of(clean[data.label_time], where)
    told = times.astype("int64").to_numpy()
    timed = times.notna().to_numpy()
    past, future = timed & (told < 0), timed & (told > now_ms + FUTURE_MS)
    left.add("labels", "label time cannot be read", rows[known & unreadable])
    left.add("labels", "no label time", rows[known & ~timed & ~unreadable])
    left.add("labels", "label time before 1970", rows[known & past])
    left.add("labels", "label time in the future", rows[known & future])
    clean[data.label_time] = times
    usable = known & timed & ~past & ~future
    if (known & ~usable).any():
        clean.loc[known & ~usable, data.label] = None
    return np.where(usable, told, NEVER)


def _without_strange_labels(
    table: pd.DataFrame, spec: Specification, left: LeftOut, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Binary tasks learn from two classes; rows with a third are replayed, and not learnt from."""
    if spec.task != "binary":
        return table
    label = spec.data.label
    keys = np.array([class_key(v) if v is not None else "" for v in _plain(table[label])], dtype=object)
    names, counts = np.unique(keys[keys != ""], return_counts=True)
    positive = class_key(spec.model.positive)
    others = sorted((-count, name) for name, count in zip(names, counts, strict=True) if name != positive)
    strange = np.isin(keys, [name for _, name in others[1:]])
    if strange.any():
        left.add("training", "the label is neither of the two classes", rows[strange])
        table.loc[strange, label] = None
    return table


def _labels_of(clean: pd.DataFrame, spec: Specification) -> list[Label | None]:
    """Labels as records carry them: whole numbers as integers."""
    from agents.retraining.table import _labels as typed_labels

    return _plain(typed_labels(clean[spec.data.label], spec, ""))


def _plain(column: Any) -> list[Any]:
    values: list[Any] = scalars_of(column)
    return values


def _objects(columns: dict[str, list[Any]], count: int) -> list[bytes]:
    """Rows as JSON objects."""
    names = list(columns)
    if not names:
        return [b"{}"] * count
    encode = _json.encode
    return [encode(dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _segment_keys(column: Any, name: str) -> NDArray[Any]:
    values = scalars_of(column)
    table = {value: class_key(value) for value in set(values) if value is not None}
    return np.array([f"{name}={table[v]}" if v is not None and table[v] else "" for v in values], dtype=object)


def _segments(keys: dict[str, NDArray[Any]], count: int) -> list[bytes]:
    """The segments of every row as JSON; made once for each combination."""
    if not keys:
        return [b""] * count
    made: dict[tuple[str, ...], bytes] = {}
    out = []
    for row in zip(*keys.values(), strict=True):
        found = made.get(row)
        if found is None:
            parts = dict(key.split("=", 1) for key in row if key)
            found = made[row] = _json.encode(parts) if parts else b""
        out.append(found)
    return out
