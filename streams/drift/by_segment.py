"""Drift of predictions and labels by segment: the counters of a segment hold both, its features are counted overall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streams.drift.subjects import Subject, positions, with_noise
from streams.drift.table import Measured, SubjectTable
from streams.panes import PanePlan

Counts = NDArray[np.int64]


class SegmentTable:
    """One subject in every segment whose distribution the reference holds.

    Parameters
    ----------
    plan : PanePlan
    subject : Subject or None
        Prediction or label, overall; None: the plan knows none.

    Attributes
    ----------
    segments : list of str
        Keys, one a row.
    """

    def __init__(self, plan: PanePlan, subject: Subject | None) -> None:
        known = plan.reference.segment_drift.get(subject.name, {}) if subject is not None else {}
        self.segments = [
            key
            for key, counts in sorted(known.items())
            if subject is not None and len(counts) == len(subject.reference)
        ]
        # Bounds take the scatter of the whole between windows, which more events tell better; noise is the segment's.
        self.table = SubjectTable(
            plan,
            [with_noise(plan, replace(subject, reference=np.array(known[key]), ordered=None)) for key in self.segments]
            if subject is not None
            else [],
        )
        self._at, self._bins = positions(plan, subject) if subject is not None else (np.zeros(0, np.int64),) * 2

    def measure(self, totals: Mapping[str, Counts]) -> Measured:
        """Measure the subject in every segment.

        Parameters
        ----------
        totals : mapping of str to array of int
            Counters of a window by segment; one that is not there holds nothing.
        """
        counts = np.zeros(self.table.shape)
        width = self.table.shape[1]
        for row, key in enumerate(self.segments):
            if key in totals:
                counts[row] = np.bincount(self._bins, totals[key][self._at].astype(np.float64), width)
        return Measured(self.table, counts, np.zeros(0, np.int64))
