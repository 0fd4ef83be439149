"""Lets the version of the day answer, many rows at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.backtest.answers import Answers
from agents.backtest.history import History
from agents.backtest.learning import Version
from schemas.errors import TrainingError

AHEAD: Final = 20_000
"""Rows that a version answers in one call; what a swap makes void is answered again."""
PROBES: Final = 8
"""Rows that lack the same features are asked for one by one only where not all of so many were refused."""


@dataclass
class Refused:
    """Rows that a version could not answer, and what it said of the first."""

    reason: str
    rows: set[int] = field(default_factory=set)


class Front:
    """Answers rows with the version of the day.

    Parameters
    ----------
    history : History
    answers : Answers
        Where to put them.
    version : Version
    row : int
        The first to be answered.
    refused : dict of int to Refused, optional
        By version: rows that it cannot take. Serving writes such requests to the dead letters.
    """

    def __init__(
        self, history: History, answers: Answers, version: Version, row: int, refused: dict[int, Refused] | None = None
    ) -> None:
        self._history = history
        self.answers = answers
        self.version = version
        self._row = row
        self._refused = {} if refused is None else refused

    def switch(self, version: Version, row: int) -> None:
        """Another version answers from `row` on."""
        for void in self._refused.values():
            void.rows = {one for one in void.rows if one < row}
        self.version, self._row = version, row

    def answer(self, last: int) -> None:
        """Answer at least up to row `last` − 1."""
        while self._row < last:
            until = min(max(self._row + AHEAD, last), len(self._history))
            rows = np.arange(self._row, until)
            if not self._taken(rows):
                for alike in self._alike(rows):
                    self._answer_alike(alike)
            self._row = until

    def _taken(self, rows: NDArray[np.int64]) -> bool:
        try:
            scored = self.version.score(self._history, rows)
        except TrainingError as error:
            self._refused.setdefault(self.version.number, Refused(error.what))
            return False
        self.answers.take(rows, scored, self.version.number)
        return True

    def _alike(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows by which features they lack: that is what most models stumble over."""
        missing = self._history.table.iloc[rows][self._history.spec.columns()].isna().to_numpy()
        _, kind = np.unique(missing, axis=0, return_inverse=True)
        return [rows[kind.reshape(-1) == number] for number in range(int(kind.max()) + 1)]

    def _answer_alike(self, rows: NDArray[np.int64]) -> None:
        if self._taken(rows):
            return
        if len(rows) > PROBES:
            probes = rows[np.linspace(0, len(rows) - 1, PROBES).astype(np.int64)]
            if not any(map(self._taken, probes[:, None])):
                self._refuse(rows)
                return
        if len(rows) == 1:
            self._refuse(rows)
            return
        half = len(rows) // 2
        self._answer_alike(rows[:half])
        self._answer_alike(rows[half:])

    def _refuse(self, rows: NDArray[np.int64]) -> None:
        self.answers.refuse(rows)
        self._refused[self.version.number].rows.update(rows.tolist())
