"""Columns of raw values: what is missing, what counts as which class, what is a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streams.panes import class_key

Values = NDArray[Any]
Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]
Mask = NDArray[np.bool_]


def unique_scalars(values: NDArray[Any]) -> tuple[list[Any], Indexes]:
    """Distinct values (in order of appearance or size) and, for every value, which of them it is."""
    if values.dtype != object and values.dtype.kind in "biufU":
        unique, inverse = np.unique(values, return_inverse=True)
        return unique.tolist(), inverse.reshape(-1).astype(np.int64)
    seen: dict[Any, int] = {}
    inverse = np.fromiter((seen.setdefault(value, len(seen)) for value in values.tolist()), np.int64, len(values))
    return list(seen), inverse


def class_keys(values: ArrayLike) -> NDArray[np.object_]:
    """`class_key` of every value."""
    array = np.asarray(values)
    unique, inverse = unique_scalars(array)
    return np.array([class_key(value) for value in unique], dtype=object)[inverse]


def missing_in(values: Values) -> Mask:
    """Which values are missing: None, NaN, pandas' NA."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values), dtype=bool)
    if values.dtype != object:
        return np.zeros(len(values), dtype=bool)
    # None and NaN; comparing with itself is the one test of NaN that every scalar type (and pandas' NA) stands.
    return np.fromiter((v is None or v is NotImplemented or not _same(v) for v in values.tolist()), bool, len(values))


def _same(value: object) -> bool:
    try:
        return bool(value == value)  # noqa: PLR0124
    except TypeError:  # pandas.NA has no truth value
        return False


def floats_of(values: ArrayLike) -> Floats:
    """Numbers, NaN where a value is missing or none."""
    array = np.asarray(values)
    try:
        out = array.astype(np.float64)
    except (TypeError, ValueError):
        out = np.array([_float(value) for value in array.tolist()], dtype=np.float64)
    return np.where(np.isfinite(out), out, np.nan)


def _float(value: object) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    return math.nan


def count_keys(values: Values) -> list[tuple[str, int]]:
    """Class keys with their counts, most frequent first."""
    unique, inverse = unique_scalars(values)
    counts: dict[str, int] = {}
    for value, count in zip(unique, np.bincount(inverse, minlength=len(unique)).tolist(), strict=True):
        key = class_key(value)
        counts[key] = counts.get(key, 0) + count
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def codes_by_key(values: Values, table: Mapping[str, int]) -> Indexes:
    """Index of every value's class key in `table`; `len(table)` for any other."""
    unique, inverse = unique_scalars(values)
    lookup = [len(table) if v is None else table.get(class_key(v), len(table)) for v in unique]
    return np.array(lookup, dtype=np.int64)[inverse] if lookup else np.zeros(0, dtype=np.int64)
