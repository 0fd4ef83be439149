"""Probabilities in the forms that models give them: in the place of a class, or as a map of class to number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from schemas.events import Label
from schemas.specification import Specification
from streams.panes import class_key

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def sides(spec: Specification) -> tuple[Label, Label]:
    """What predictions of the negative and of the positive class are called where only probabilities are given."""
    positive = spec.model.positive
    return (0 if positive == 1 else f"not {positive}"), positive


def share_of_maps(column: pd.Series[Any], guesses: np.ndarray[Any, Any], spec: Specification) -> pd.Series[Any]:
    """Probabilities with maps, as traffic may carry them (text: JSON), brought to the one number that counts.

    Parameters
    ----------
    column : Series, shape (n,)
    guesses : array, shape (n,)
        Predictions, row by row.

    Returns
    -------
    Series
        Binary: of the positive class; multiclass: of the predicted one, 0 where the map lacks it. The column itself
        where it holds no map.
    """
    import pandas as pd

    maps = [_map(value) for value in column.tolist()] if column.dtype == object or str(column.dtype) == "str" else []
    if not any(found is not None for found in maps):
        return column
    positive = class_key(spec.model.positive)
    keys = [positive if spec.task == "binary" else class_key(guess) for guess in guesses.tolist()]
    shares = [
        value if found is None else found.get(key, 0.0)
        for value, found, key in zip(column.tolist(), maps, keys, strict=True)
    ]
    return pd.Series(shares, index=column.index, dtype=object)


def _map(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, dict):
        return None
    return {str(key): share for key, share in value.items() if share is not None}
