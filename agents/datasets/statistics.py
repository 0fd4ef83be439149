"""What a table is like: its columns in numbers, what looks odd about it, and how far two tables lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from agents.datasets.manifest import Column, Moved
from streams.drift.distances import chi_squared_p, jensen_shannon, psi
from streams.drift.measures import chi2_rows

BINS: Final = 10
SHOWN: Final = 50
MUCH: Final = 0.5
"""Share of nulls that is told."""
PSI_MOVED: Final = 0.1
P_MOVED: Final = 0.01
LARGE: Final = 1e140


def described(table: pa.Table) -> dict[str, Column]:
    """Statistics of every column."""
    return {name: _column(table[name]) for name in table.column_names}


def oddities(table: pa.Table, columns: Mapping[str, Column], key: Sequence[str]) -> list[str]:
    """What looks odd, in words: nothing of it is forbidden."""
    said, rows = [], table.num_rows
    if rows == 0:
        return ["there is no row"]
    for name, column in columns.items():
        if column.nulls == rows:
            said.append(f"{name} is empty")
        elif column.nulls > MUCH * rows:
            said.append(f"{name} is empty in {column.nulls / rows:.0%} of the rows")
        elif column.distinct == 1 and rows > 1 and not column.nulls:
            said.append(f"{name} has one value only: {column.least}")
        if pa.types.is_floating(table.schema.field(name).type):
            infinite = pc.sum(pc.is_inf(table[name])).as_py() or 0
            if infinite:
                said.append(f"{name} is infinite in {infinite} rows")
    if key:
        double = rows - table.group_by(list(key)).aggregate([]).num_rows
        if double:
            said.append(f"{double} rows have a key ({', '.join(key)}) that came before")
    return said


def moved(old: pa.Table, new: pa.Table, known: Mapping[str, Column]) -> dict[str, Moved]:
    """How far the columns of `new` are from those of `old`, of those that both have and that are of one kind.

    Parameters
    ----------
    known : mapping
        Statistics of `old`.

    Notes
    -----
    Numbers: PSI and Jensen-Shannon over the ten bins of `old`, and of the values themselves, which are at hand here,
    the two-sample Kolmogorov-Smirnov statistic with its p-value and the Wasserstein distance. Others: PSI and
    Jensen-Shannon over values and the chi-squared test; a column with a value of its own in nearly every row is left
    out.
    """
    found = {}
    for name in old.column_names:
        if name not in new.column_names or not old.num_rows or not new.num_rows:
            continue
        column = known[name]
        if _is_number(old.schema.field(name).type) and _is_number(new.schema.field(name).type):
            if column.edges:
                found[name] = _numbers(_values(old[name]), _values(new[name]), column)
        elif column.values and column.distinct <= max(SHOWN, 0.5 * old.num_rows):
            found[name] = _categories(old[name], new[name], list(column.values))
    return found


def _column(values: pa.ChunkedArray) -> Column:
    kind = values.type
    nulls, distinct = values.null_count, pc.count_distinct(values, mode="only_valid").as_py()
    about: dict[str, Any] = {"type": str(kind), "nulls": nulls, "distinct": distinct}
    if _is_number(kind):
        numbers = _values(values)
        about["nulls"] = len(values) - len(numbers) if pa.types.is_floating(kind) else nulls
        if len(numbers):
            unit = _unit(numbers)
            edges = np.unique(np.quantile(numbers / unit, np.linspace(0, 1, BINS + 1)) * unit)
            about |= {
                "least": f"{numbers.min():.17g}",
                "most": f"{numbers.max():.17g}",
                "mean": float((numbers / unit).mean() * unit),
                "deviation": float((numbers / unit).std() * unit),
                "edges": edges.tolist(),
                "counts": _binned(numbers, edges).tolist(),
            }
        return Column(**about)
    if len(values) > nulls:
        texts = _texts(values)
        counted = texts.drop_null().value_counts()
        order = np.argsort(-counted.field("counts").to_numpy(zero_copy_only=False), kind="stable")[:SHOWN]
        top = counted.take(pa.array(order))
        span = pc.min_max(texts)
        about |= {
            "least": span["min"].as_py(),
            "most": span["max"].as_py(),
            "values": {} if _is_time(kind) else dict(zip(*(top.field(i).to_pylist() for i in (0, 1)), strict=True)),
        }
    return Column(**about)


def _unit(*numbers: NDArray[np.float64]) -> float:
    """What to divide numbers by whose squares or sums would be too large for a float, or vanish; else 1."""
    largest = max(float(np.abs(found).max()) for found in numbers)
    return 1.0 if 1 / LARGE < largest < LARGE else largest or 1.0


def _numbers(old: NDArray[np.float64], new: NDArray[np.float64], column: Column) -> Moved:
    if not len(old) or not len(new):
        return Moved(psi=None, p_value=0.0, moved=len(old) != len(new))
    edges = np.array(column.edges)
    before, after = (_binned(v, edges) if len(edges) > 1 else _around(v, edges[0]) for v in (old, new))
    distance = psi(after, before)
    with np.errstate(divide="ignore", invalid="ignore"):
        test = stats.ks_2samp(old, new, method="asymp")
    p = float(test.pvalue) if min(len(old), len(new)) > 1 else 1.0  # single values say nothing
    return Moved(
        psi=distance,
        jensen_shannon=jensen_shannon(after, before),
        ks=float(test.statistic),
        wasserstein=_apart(old, new),
        p_value=p,
        moved=distance >= PSI_MOVED and p < P_MOVED,
    )


def _apart(old: NDArray[np.float64], new: NDArray[np.float64]) -> float | None:
    """First Wasserstein distance in standard deviations of the old numbers; None where these do not differ."""
    unit = _unit(old, new)
    scale = float((old / unit).std())
    return float(stats.wasserstein_distance(old / unit, new / unit)) / scale if scale > 0 else None


def _categories(old: pa.ChunkedArray, new: pa.ChunkedArray, known: list[str]) -> Moved:
    before, after = _counted(old, known), _counted(new, known)
    distance, p = psi(after, before), chi_squared_p(after, before)
    return Moved(
        psi=distance,
        jensen_shannon=jensen_shannon(after, before),
        chi2=float(chi2_rows(after.astype(np.float64), before.astype(np.float64))),
        p_value=p,
        moved=distance >= PSI_MOVED and p < P_MOVED,
    )


def _counted(values: pa.ChunkedArray, known: list[str]) -> NDArray[np.int64]:
    """How often each known value came, and the others together; nulls last."""
    counted = _texts(values).value_counts()
    counts = dict(zip(*(counted.field(i).to_pylist() for i in (0, 1)), strict=True))
    missing = counts.pop(None, 0)
    listed = [counts.pop(value, 0) for value in known]
    return np.array([*listed, sum(counts.values()), missing], dtype=np.int64)


def _binned(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Values by bin; the outer bins are open."""
    inner = edges[1:-1]
    return np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)


def _around(values: NDArray[np.float64], value: float) -> NDArray[np.int64]:
    """How many values are smaller than one, equal to it and larger: bins of a column that had no other."""
    return np.bincount(np.sign(values - value).astype(np.int64) + 1, minlength=3)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind))


def _values(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Finite numbers of a column."""
    numbers = values.drop_null().cast(pa.float64()).to_numpy()
    return np.asarray(numbers[np.isfinite(numbers)], dtype=np.float64)


def _texts(values: pa.ChunkedArray) -> pa.Array:
    """Values as texts; what has no text of its own (lists, structs) as JSON-like text."""
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
    return values.cast(pa.string()).combine_chunks()
