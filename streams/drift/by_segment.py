"""Drift by segment: of predictions and labels, which every segment counts, and of the features that are asked for."""

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


class CellTable:
    """The features that are watched in segments, in every segment whose distribution the reference holds.

    Parameters
    ----------
    plan : PanePlan
    whole : mapping of str to Subject
        Overall, by name.

    Attributes
    ----------
    segments : list of str
        Keys of segments that are looked at.
    table : SubjectTable
        A row for each feature in each segment.
    """

    def __init__(self, plan: PanePlan, whole: Mapping[str, Subject]) -> None:
        known, missing = plan.reference.segment_drift, plan.reference.segment_missing
        names = [name for name in whole if name.removeprefix("feature:") in plan.of_segments]
        subjects = [
            with_noise(
                plan,
                replace(
                    whole[name],
                    reference=np.array(counts),
                    ordered=None,
                    segment=key,
                    missing=missing.get(name, {}).get(key, 0),
                ),
            )
            for name in names
            for key, counts in sorted(known.get(name, {}).items())
            if len(counts) == len(whole[name].reference)
        ]
        self.segments = sorted({subject.segment for subject in subjects})
        at = {key: number * plan.segment_size for number, key in enumerate(self.segments)}
        self._size = plan.segment_size
        self.table = SubjectTable(plan, subjects, [at[subject.segment] for subject in subjects])

    def measure(self, totals: Mapping[str, Counts]) -> Measured:
        """Measure every feature in every segment; totals as of `SegmentTable.measure`."""
        empty = np.zeros(self._size, np.int64)
        return self.table.measure(np.concatenate([totals.get(key, empty) for key in self.segments]))
