"""A window beside its season: the months, or the weekdays, that it lies in, mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.reference import Seasons, Weekdays
from streams.drift.distances import shares
from streams.drift.scatter import drift_key
from streams.drift.table import Measured, SubjectTable
from streams.seasons import LEAST_EXCESS, LEAST_ROWS, MONTHS, month_weights, season_name, season_psi
from streams.weekdays import DAY_MS, DAYS, weekday_name, weekday_weights
from streams.windows import Window

Floats = NDArray[np.float64]
Weights = Callable[[int, int], tuple[float, ...]]

PHASES: Final = (0.0, -15.0, 15.0)
"""Days by which a season may come early or late."""
WEEK_MS: Final = DAYS * DAY_MS


class Likeness(NamedTuple):
    """How far every subject of a window lies from its season; arrays of shape (subjects,).

    `psi` is NaN where the season is not known; `rows` are the reference rows behind it. `named` says a span of time in
    words. `tells_whole`: a window that is like its season and far from the whole is worth information: not so of
    weekdays, which come round every week.
    """

    psi: Floats
    rows: Floats
    excess: Floats
    dof: Floats
    named: Callable[[int, int], str] = season_name
    tells_whole: bool = True


class Calendar:
    """Distributions by month, or by weekday, of the subjects of one table.

    Parameters
    ----------
    table : SubjectTable
    parts : int
        Months or weekdays.
    known : mapping of str to list of list of int
        Counts by subject, part and bin.
    drift : mapping of str to float
        How far the reference's own windows lie from their season.
    weights : list of callable
        Parts in a span of time; the nearest of these mixtures counts.
    """

    def __init__(
        self,
        table: SubjectTable,
        parts: int,
        known: Mapping[str, list[list[int]]],
        drift: Mapping[str, float],
        weights: list[Weights],
    ) -> None:
        self._table = table
        self._drift = drift
        self._weights = weights
        self._weekly = parts == DAYS
        subjects, width = table.shape
        self._shares = np.zeros((parts, subjects, width))
        self._n = np.zeros((parts, subjects))
        for row, subject in enumerate(table.subjects):
            counts = known.get(subject.key)
            if counts is None or len(counts[0]) != len(subject.reference):
                continue
            found = np.asarray(counts, dtype=np.float64)
            self._n[:, row] = found.sum(axis=1)
            self._shares[:, row, : found.shape[1]] = shares(found)
        self._padding = (self._shares.sum(axis=0) == 0).astype(np.float64)
        self._figures: dict[str, tuple[Floats, Floats]] = {}

    @classmethod
    def of_months(cls, table: SubjectTable, seasons: Seasons) -> Calendar:
        """The calendar of a year."""
        return cls(
            table, MONTHS, seasons.months, seasons.drift, [partial(month_weights, shift_days=by) for by in PHASES]
        )

    @classmethod
    def of_weekdays(cls, table: SubjectTable, weekdays: Weekdays) -> Calendar:
        """The calendar of a week."""
        return cls(table, DAYS, weekdays.days, weekdays.drift, [weekday_weights])

    def like(self, measured: Measured, window: Window) -> Likeness | None:
        """Compare a window with its season; None of whole weeks, which know no weekday."""
        if self._weekly and (window.end_ms - window.start_ms) % WEEK_MS == 0:
            return None
        p = measured.shares
        best = np.full(self._table.shape[0], np.nan)
        rows = np.ones(self._table.shape[0])
        for weights_of in self._weights:
            weights = np.array(weights_of(window.start_ms, window.end_ms))
            known = (self._n[weights > 0] >= LEAST_ROWS).all(axis=0)
            q = np.tensordot(weights, self._shares, axes=1)
            found = np.where(known, season_psi(p, q, self._padding), np.nan)
            inverse = (weights[:, None] ** 2 / np.maximum(self._n, 1.0)).sum(axis=0)
            closer = known & ~(best <= found)
            best = np.where(closer, found, best)
            rows = np.where(closer, 1.0 / np.maximum(inverse, 1e-12), rows)
        found_scatter = self._scatter(window.name)
        return Likeness(best, rows, *found_scatter, *((weekday_name, False) if self._weekly else ()))

    def _scatter(self, window: str) -> tuple[Floats, Floats]:
        if window not in self._figures:
            names = [subject.key for subject in self._table.subjects]
            excess = [self._drift.get(drift_key(name, window, "excess"), LEAST_EXCESS) for name in names]
            dof = [self._drift.get(drift_key(name, window, "dof"), 1.0) for name in names]
            self._figures[window] = (np.array(excess), np.array(dof))
        return self._figures[window]
