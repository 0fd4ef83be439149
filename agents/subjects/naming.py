"""Who a row belongs to, as text. Needs nothing but pandas: the process that makes a version again uses it, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from schemas.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd


def subject_text(value: object) -> str | None:
    """A subject as text: 5, 5.0 and "5" are one; None where there is none.

    Examples
    --------
    >>> subject_text(5.0), subject_text("5"), subject_text(2**60 + 1), subject_text("")
    ('5', '5', '1152921504606846977', None)
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return None if value is None else (str(value) or None)


def named_subjects(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    """The column that says whose the rows are, as text.

    Raises
    ------
    TrainingError
        Rows do not say it: they could not be erased.
    """
    import pandas as pd

    texts = [None if gone else subject_text(value) for value, gone in zip(column, column.isna(), strict=True)]
    if missing := sum(text is None for text in texts):
        raise TrainingError(
            f"{missing} rows do not say whose they are",
            where=f"{where} [{column.name}]",
            remedy="give every row its subject, or leave those rows out: they could never be erased",
        )
    return pd.Series(texts, dtype="str")
