"""Feature values as the DataFrame that estimators are given: the same in training, validation and serving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schemas.specification import Specification
from streams.panes import class_key

if TYPE_CHECKING:
    import pandas as pd


def feature_frame(spec: Specification, columns: Mapping[str, Any], rows: int | None = None) -> pd.DataFrame:
    """The specification's feature columns, in its order and with one dtype a kind.

    Parameters
    ----------
    spec : Specification
    columns : mapping of str to sequence or Series
        Values by feature: lists of JSON scalars, arrays or Series. A feature that is absent is missing in every row.
    rows : int, optional
        Number of rows where `columns` may be empty.

    Returns
    -------
    pandas.DataFrame
        ``numeric``: float64, NaN where missing, infinite or no number. ``boolean``: float64, 1, 0 or NaN.
        ``categorical``: str, missing as NaN; 5, 5.0 and "5" are one category, as monitoring counts them.
    """
    import pandas as pd

    count = rows if rows is not None else (len(next(iter(columns.values()))) if columns else 0)
    made = {
        name: _column(kind, columns[name]) if name in columns else _missing(kind, count)
        for name, kind in spec.features.items()
    }
    return pd.DataFrame(made, index=pd.RangeIndex(count), columns=spec.columns())


def _missing(kind: str, count: int) -> Any:
    import numpy as np
    import pandas as pd

    return pd.Series([None] * count, dtype="str") if kind == "categorical" else np.full(count, np.nan)


def _column(kind: str, values: Any) -> Any:
    import pandas as pd

    if kind != "categorical":
        return _numbers(values)
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    if series.dtype != "str":
        series = pd.Series([_text(value) for value in series.tolist()], dtype="str")
    return series.reset_index(drop=True)


def _numbers(values: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(values, pd.Series) and pd.api.types.is_numeric_dtype(values.dtype):
        out = values.to_numpy(dtype="float64", na_value=np.nan)
    else:
        try:
            array = np.asarray(values)
            # Text that looks like a number is no number: monitoring counts it as missing too.
            if array.dtype.kind not in "biufO" or (
                array.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in array.tolist())
            ):
                raise ValueError("not numbers")
            out = array.astype("float64")
        except (TypeError, ValueError):
            out = np.array([number_of(value) for value in values], dtype="float64")
    return np.where(np.isfinite(out), out, np.nan)


def number_of(value: Any) -> float:
    """A value as a number; NaN where it is none. Text that looks like one is none."""
    if isinstance(value, str | bytes):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else class_key(value)
