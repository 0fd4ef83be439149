"""Distances of many subjects at once: a version's subjects side by side, as rows of one padded matrix.

A window of twenty features costs some forty numpy calls instead of some forty a subject. What a row holds is what
`streams.drift.distances` computes of a single subject, but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from streams.drift.distances import SMOOTHING
from streams.drift.measures import MEASURES, SCALES, chi2_rows
from streams.drift.ordered import OrderedTable
from streams.drift.subjects import Subject, positions
from streams.panes import COARSE, TAIL, PanePlan

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]
Statistics = dict[str, float | None]

_REST: Final = ("missing", "invalid", "low", "high", "total")
_UNITS: Final = np.array([1.0, 1.0, 1.0 / COARSE, 1.0 / TAIL, 1.0 / TAIL])


if TYPE_CHECKING:
    from streams.drift.calendar import Likeness
    from streams.drift.checks import Check


class SubjectTable:
    """Subjects of one plan side by side.

    Parameters
    ----------
    plan : PanePlan
    subjects : sequence of Subject
    offsets : sequence of int, optional
        Where the counters begin that each is counted in; default: all in the same.

    Attributes
    ----------
    rows : dict of str to int
        Row by key of the subject.
    features : array of int
        Rows that are features.
    numbers : array of bool, shape (subjects,)
        Rows whose bins have an order.
    reference : array of float, shape (subjects, bins)
        Counts of the references, padded with zeros.
    reference_n, bins : array of float, shape (subjects,)
        Values of the reference and bins that it fills.
    noise, least : array of float, shape (subjects,)
        Of the distances that decide (`streams.drift.measures`).
    """

    def __init__(self, plan: PanePlan, subjects: Sequence[Subject], offsets: Sequence[int] = ()) -> None:
        self.subjects = tuple(subjects)
        begins = tuple(offsets) or (0,) * len(self.subjects)
        self.rows = {subject.key: row for row, subject in enumerate(self.subjects)}
        width = max((len(subject.reference) for subject in self.subjects), default=1)
        self.shape = (len(self.subjects), width)
        where = [positions(plan, subject) for subject in self.subjects]
        placed = [at + begin for (at, _), begin in zip(where, begins, strict=True)]
        self._positions = np.concatenate(placed) if placed else np.zeros(0, np.int64)
        self._cells = (
            np.concatenate([bins + row * width for row, (_, bins) in enumerate(where)])
            if where
            else np.zeros(0, np.int64)
        )
        self.reference = np.zeros(self.shape)
        self._padding = np.ones(self.shape)
        self._gaps = np.zeros((self.shape[0], max(width - 1, 0)))
        for row, subject in enumerate(self.subjects):
            size = len(subject.reference)
            self.reference[row, :size] = subject.reference
            self._padding[row, :size] = 0.0
            self._gaps[row, : len(subject.gaps)] = subject.gaps
        self._order(plan)
        self.numbers = np.array([subject.centres is not None for subject in self.subjects], dtype=bool)
        self.reference_n = np.array([subject.reference_n for subject in self.subjects], dtype=np.float64)
        self.bins = np.array([subject.bins for subject in self.subjects], dtype=np.float64)
        self.noise = np.array([subject.noise[0] for subject in self.subjects], dtype=np.float64)
        self.least = np.array([SCALES[subject.measure].least for subject in self.subjects], dtype=np.float64)
        measures = np.array([subject.measure for subject in self.subjects], dtype=object)
        self._by_measure = {name: measures == name for name in MEASURES if (measures == name).any()}
        self._half = SMOOTHING * (1.0 - self._padding)
        self._smoothing = self._half.sum(axis=1)
        smoothed = self.reference + self._half
        self._q = smoothed / smoothed.sum(axis=1, keepdims=True)
        # Padding divides by one, and takes no part: the logarithm of one is nothing.
        self._inverse_q = 1.0 / (self._q + self._padding)
        self._cumulative = np.cumsum(self.reference, axis=1) / np.maximum(self.reference_n, 1.0)[:, None]
        self.features = np.array([row for row, s in enumerate(self.subjects) if s.slots is not None], dtype=np.int64)
        self._rest = np.array(
            [
                [getattr(s.slots, name) + begin for name in _REST]
                for s, begin in zip(self.subjects, begins, strict=True)
                if s.slots is not None
            ],
            dtype=np.int64,
        ).reshape(-1, len(_REST))

    def _order(self, plan: PanePlan) -> None:
        """What KS and Wasserstein are measured by, where more is known than the bins of the comparison."""
        known = [(row, s, s.ordered) for row, s in enumerate(self.subjects) if s.ordered is not None]
        self.ordered = OrderedTable([ordered for _, _, ordered in known])
        self.ordered_rows = np.array([row for row, _, _ in known], dtype=np.int64)
        width = self.ordered.shape[1]
        at = [positions(plan, subject)[0] for _, subject, _ in known]
        nothing = [np.zeros(0, np.int64)]
        self._fine = np.concatenate([*nothing, *at])
        self._fine_cells = np.concatenate([*nothing, *(o.groups + row * width for row, (_, _, o) in enumerate(known))])
        slots = [ordered.slots or (-1,) * len(_UNITS) for _, _, ordered in known]
        self._fine_rest = np.array(slots, dtype=np.int64).reshape(-1, len(_UNITS))

    def fine(self, window: Counts) -> tuple[Floats, Floats]:
        """Counts and sums of a window as `OrderedTable.distances` takes them."""
        shape = self.ordered.shape
        flat = np.bincount(self._fine_cells, window[self._fine].astype(np.float64), shape[0] * shape[1])
        rest = window[self._fine_rest] * _UNITS
        rest[self._fine_rest[:, 0] < 0] = 0.0
        return flat.astype(np.float64, copy=False).reshape(shape), rest

    def told(self, scaled: Floats) -> Floats:
        """Distances on the measures' common scale in their own numbers, shape (subjects,)."""
        out = scaled
        for name, rows in self._by_measure.items():
            if name in {"jensen_shannon", "ks", "wasserstein"}:
                out = np.where(rows, np.sqrt(scaled / SCALES[name].forth(1.0)), out)
        return out

    def measure(self, window: Counts) -> Measured:
        """Measure every subject in a window.

        Parameters
        ----------
        window : array of int
            All counters of the window.
        """
        flat = np.bincount(self._cells, window[self._positions].astype(np.float64), self.shape[0] * self.shape[1])
        return Measured(self, flat.astype(np.float64, copy=False).reshape(self.shape), window)


class Measured:
    """What a window shows of every subject of a table; each part is computed when it is first asked for.

    Attributes
    ----------
    counts : array of float, shape (subjects, bins)
    n : array of float, shape (subjects,)
        Values of each subject.
    """

    def __init__(self, table: SubjectTable, counts: Floats, window: Counts) -> None:
        self.table = table
        self.counts = counts
        self.n: Floats = self.counts.sum(axis=1)
        self._window = window
        self.checks: dict[int, Check] = {}
        """Distances beside their bounds, by row, as far as they were asked for."""
        self.beyond: set[int] | None = None
        """Rows whose distance is farther from the usual than any bound is near to it, once they were asked for."""
        self.like: Likeness | None = None
        """What the calendar says of it (`streams.seasons`), once it was asked."""

    @cached_property
    def _p(self) -> Floats:
        smoothed = self.counts + self.table._half
        smoothed /= (self.n + self.table._smoothing)[:, None]
        return smoothed

    @property
    def shares(self) -> Floats:
        """Smoothed shares of the bins, shape (subjects, bins); zero where padded."""
        return self._p

    @cached_property
    def psi(self) -> Floats:
        """Population stability index, shape (subjects,)."""
        table = self.table
        logs = self._p * table._inverse_q
        logs += table._padding
        np.log(logs, out=logs)
        return np.asarray(np.einsum("ij,ij->i", self._p - table._q, logs))

    @cached_property
    def jensen_shannon(self) -> Floats:
        """Jensen-Shannon distance, shape (subjects,)."""
        table = self.table
        p, q = self._p, table._q
        middle = (p + q) / 2 + table._padding
        divergence = 0.5 * (p * np.log2((p + table._padding) / middle)).sum(axis=1)
        divergence += 0.5 * (q * np.log2((q + table._padding) / middle)).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(divergence, 0.0)))

    @cached_property
    def _gap(self) -> Floats:
        """Gaps between the cumulative shares, shape (subjects, bins)."""
        cumulative = np.cumsum(self.counts, axis=1) / np.maximum(self.n, 1.0)[:, None]
        return np.asarray(np.abs(cumulative - self.table._cumulative))

    @cached_property
    def _ordered(self) -> tuple[Floats, Floats]:
        """KS and Wasserstein of the rows that the table can tell more finely."""
        return self.table.ordered.distances(*self.table.fine(self._window))

    @cached_property
    def ks(self) -> Floats:
        """Kolmogorov-Smirnov distance, shape (subjects,); means something for numbers.

        The largest gap at the bin edges and at both ends of the reference: beyond them it has nothing, the window what
        was counted as out of range.
        """
        largest = self._gap.max(axis=1)
        rows = self.table.features
        if len(rows):
            beyond = self.rest[:, 2:4].max(axis=1) / np.maximum(self.n[rows], 1.0)
            largest[rows] = np.maximum(largest[rows], beyond)
        if len(self.table.ordered_rows):
            largest[self.table.ordered_rows] = self._ordered[0]
        return np.asarray(largest)

    @cached_property
    def ks_p(self) -> Floats:
        """Its asymptotic p-value, shape (subjects,)."""
        m = self.table.reference_n
        effective = self.n * m / np.maximum(self.n + m, 1.0)
        return np.asarray(np.where(self.n > 0, special.kolmogorov(np.sqrt(effective) * self.ks), 1.0))

    @cached_property
    def wasserstein(self) -> Floats:
        """First Wasserstein distance in standard deviations of the reference, shape (subjects,); of numbers."""
        out = np.einsum("ij,ij->i", self._gap[:, :-1], self.table._gaps)
        if len(self.table.ordered_rows):
            out[self.table.ordered_rows] = self._ordered[1]
        return np.asarray(out)

    @cached_property
    def chi2(self) -> Floats:
        """Chi-squared distance (Pearson's statistic of homogeneity times 1/n + 1/m), shape (subjects,)."""
        return chi2_rows(self.counts, self.table.reference)

    @cached_property
    def deciding(self) -> Floats:
        """The distance that decides about each subject's drift, in its own numbers, shape (subjects,)."""
        measures = self.table._by_measure
        if set(measures) == {"psi"}:
            return self.psi
        out = np.zeros(len(self.n))
        for name, rows in measures.items():
            out = np.where(rows, getattr(self, name), out)
        return out

    @cached_property
    def chi2_p(self) -> Floats:
        """p-value of the chi-squared test of homogeneity, shape (subjects,)."""
        a, b = self.counts, self.table.reference
        both = a + b
        used = both > 0
        n, m = np.maximum(self.n, 1.0), np.maximum(self.table.reference_n, 1.0)
        ratio = np.sqrt(m / n)[:, None]
        statistic = ((a * ratio - b / ratio) ** 2 / np.where(used, both, 1.0)).sum(axis=1)
        freedom = used.sum(axis=1) - 1.0
        tested = (freedom >= 1) & (self.n > 0) & (self.table.reference_n > 0)
        return np.asarray(np.where(tested, special.chdtrc(np.maximum(freedom, 1.0), statistic), 1.0))

    @cached_property
    def rest(self) -> Counts:
        """Missing, invalid, low, high and the standardised sum of every feature, shape (features, 5)."""
        return np.asarray(self._window[self.table._rest])

    @cached_property
    def lost(self) -> Counts:
        """Values of every feature that are missing or of the wrong type, shape (features,)."""
        return np.asarray(self.rest[:, 0] + self.rest[:, 1])

    # ------------------------------------------------------------------------------------- one by one

    @cached_property
    def _columns(self) -> dict[str, list[float]]:
        numbers = bool(self.table.numbers.any())
        names = ["psi", "jensen_shannon", *(("ks", "ks_p", "wasserstein") if numbers else ())]
        if not self.table.numbers.all():
            names += ["chi2", "chi2_p"]
        return {name: getattr(self, name).tolist() for name in names}

    @cached_property
    def _features(self) -> dict[int, list[int]]:
        return dict(zip(self.table.features.tolist(), self.rest.tolist(), strict=True))

    def statistics(self, row: int) -> Statistics:
        """Every statistic of one subject, by name.

        Returns
        -------
        dict of str to float or None
            ``psi``, ``jensen_shannon``; of numbers ``ks``, ``ks_p``, ``wasserstein``; of categories ``chi2``,
            ``chi2_p``; of features also ``missing_rate``, ``invalid_rate``, ``out_of_range_rate`` and ``mean_shift``
            (in standard deviations), or ``new_rate``.
        """
        columns, n = self._columns, int(self.n[row])
        out: Statistics
        if n == 0:
            out = {"psi": None, "jensen_shannon": None}
        elif self.table.numbers[row]:
            names = ("psi", "jensen_shannon", "ks", "ks_p", "wasserstein")
            out = {name: columns[name][row] for name in names}
        else:
            out = {name: columns[name][row] for name in ("psi", "jensen_shannon", "chi2", "chi2_p")}
        slots = self.table.subjects[row].slots
        if slots is None:
            return out
        missing, invalid, low, high, total = self._features[row]
        everything = n + missing + invalid
        if not everything:
            out["missing_rate"] = None
            return out
        out["missing_rate"] = missing / everything
        out["invalid_rate"] = invalid / everything
        if not slots.numeric:
            out["new_rate"] = int(self.counts[row, len(self.table.subjects[row].reference) - 1]) / n if n else None
            return out
        out["out_of_range_rate"] = (low + high) / n if n else None
        # In standard deviations from the reference's mean: a plain mean would need the reference to be read.
        out["mean_shift"] = total / COARSE / n if n else None
        return out
