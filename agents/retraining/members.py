"""The models of a project for many: which there are, and each one's rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.retraining.table import read_frame
from schemas.errors import TrainingError
from schemas.fleets import member_value
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd


class Member(NamedTuple):
    """One model of a project for many: the value of its column, and its rows of the table where one was given."""

    value: str
    rows: pd.DataFrame | None = None


class Given(NamedTuple):
    """A table that was named instead of a file: a version of a dataset, ``trips@3``."""

    name: str
    rows: pd.DataFrame

    def __str__(self) -> str:
        return f"dataset {self.name}"


class Divided(NamedTuple):
    """A table by member, and how many of its rows name none."""

    members: list[Member]
    nameless: int


def divided(table: Path | Given, fleet: Specification, *, option: str = "--data") -> Divided:
    """Read a table (or take one at hand) and divide it by the column of `fleet`, in order of the values.

    Raises
    ------
    TrainingError
        The file cannot be read, or has no such column.
    """
    per = fleet.model.per
    assert per is not None
    frame = table.rows if isinstance(table, Given) else read_frame(table, fleet, option=option, text=(per,))
    if per not in frame.columns:
        raise TrainingError(
            f"the table lacks the column {per}, which tells the models apart",
            where=str(table),
            remedy=f"it has: {', '.join(map(str, frame.columns[:40]))}; [model] per names the column",
        )
    values = frame[per]
    members = [Member(value, rows.reset_index(drop=True)) for value, rows in _groups(frame, values)]
    return Divided(members, int(values.isna().sum()))


def _groups(frame: pd.DataFrame, values: pd.Series[Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    said = values.map(member_value, na_action="ignore")
    yield from ((str(value), rows) for value, rows in frame.groupby(said, sort=True, dropna=True))
