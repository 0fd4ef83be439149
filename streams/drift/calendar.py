"""A window beside its season: the months it lies in, mixed."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.reference import Seasons
from streams.drift.distances import shares
from streams.drift.scatter import drift_key
from streams.drift.table import Measured, SubjectTable
from streams.seasons import LEAST_EXCESS, LEAST_ROWS, MONTHS, month_weights, season_psi
from streams.windows import Window

Floats = NDArray[np.float64]

PHASES: Final = (0.0, -15.0, 15.0)
"""Days by which a season may come early or late."""


class Likeness(NamedTuple):
    """How far every subject of a window lies from its season; arrays of shape (subjects,).

    `psi` is NaN where the season is not known; `rows` are the reference rows behind it.
    """

    psi: Floats
    rows: Floats
    excess: Floats
    dof: Floats


class Calendar:
    """Distributions by month of the subjects of one table.

    Parameters
    ----------
    table : SubjectTable
    seasons : Seasons
    """

    def __init__(self, table: SubjectTable, seasons: Seasons) -> None:
        self._table = table
        self._drift = seasons.drift
        subjects, width = table.shape
        self._shares = np.zeros((MONTHS, subjects, width))
        self._n = np.zeros((MONTHS, subjects))
        for row, subject in enumerate(table.subjects):
            counts = seasons.months.get(subject.key)
            if counts is None or len(counts[0]) != len(subject.reference):
                continue
            found = np.asarray(counts, dtype=np.float64)
            self._n[:, row] = found.sum(axis=1)
            self._shares[:, row, : found.shape[1]] = shares(found)
        self._padding = (self._shares.sum(axis=0) == 0).astype(np.float64)
        self._figures: dict[str, tuple[Floats, Floats]] = {}

    def like(self, measured: Measured, window: Window) -> Likeness:
        """Compare a window with its season."""
        p = measured.shares
        best = np.full(self._table.shape[0], np.nan)
        rows = np.ones(self._table.shape[0])
        for phase in PHASES:
            weights = np.array(month_weights(window.start_ms, window.end_ms, phase))
            known = (self._n[weights > 0] >= LEAST_ROWS).all(axis=0)
            q = np.tensordot(weights, self._shares, axes=1)
            found = np.where(known, season_psi(p, q, self._padding), np.nan)
            inverse = (weights[:, None] ** 2 / np.maximum(self._n, 1.0)).sum(axis=0)
            closer = known & ~(best <= found)
            best = np.where(closer, found, best)
            rows = np.where(closer, 1.0 / np.maximum(inverse, 1e-12), rows)
        return Likeness(best, rows, *self._scatter(window.name))

    def _scatter(self, window: str) -> tuple[Floats, Floats]:
        if window not in self._figures:
            names = [subject.key for subject in self._table.subjects]
            excess = [self._drift.get(drift_key(name, window, "excess"), LEAST_EXCESS) for name in names]
            dof = [self._drift.get(drift_key(name, window, "dof"), 1.0) for name in names]
            self._figures[window] = (np.array(excess), np.array(dof))
        return self._figures[window]
