"""Features in segments, compiled: what the reference shows of each, and how far its own windows lie apart there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from schemas.errors import SpecificationError
from schemas.reference import ReferenceStatistics
from streams.columns import Indexes, Mask
from streams.drift.scatter import Coded, drift_key, own_windows
from streams.drift.subjects import Subject, cell_name, with_noise
from streams.panes import PanePlan

InSegment = Callable[[str], Mask]
"""Rows of a segment, by its key."""

MOST_CELLS: Final = 1000
"""Features times segments that a model may be watched in: every prediction counts in each of its own."""
LEAST_ROWS: Final = 200
"""Rows of the reference that a feature needs in a segment."""


def check_cells(plan: PanePlan, reference: ReferenceStatistics) -> None:
    """Refuse what would not fit into memory.

    Raises
    ------
    SpecificationError
        Too many segments for the features named.
    """
    features, segments = len(plan.of_segments), len(reference.segments)
    if features * segments > MOST_CELLS:
        raise SpecificationError(
            f"{features} features in {segments:,} segments are {features * segments:,} distributions to keep",
            where="[alarms.segment_features]",
            remedy=f"at most {MOST_CELLS:,}: name fewer features, or segments with fewer values",
        )


def cells_of(coded: Coded, keys: Sequence[str], in_segment: InSegment) -> Iterator[Coded]:
    """A feature in every segment that holds enough of it, but in those that are made of its own values."""
    for key in keys:
        if coded.subject == f"feature:{key.partition('=')[0]}":
            continue
        rows = coded.rows & in_segment(key)
        present = rows if coded.missing is None else rows & ~coded.missing
        if int(present.sum()) >= LEAST_ROWS:
            # The bins of the comparison must do: what the whole is measured finer by, the reference has overall only.
            yield coded._replace(subject=cell_name(coded.subject, key), rows=rows, values=None)


class CellReferences:
    """Collects what the reference shows of features in segments.

    Parameters
    ----------
    plan : PanePlan
    keys : sequence of str
        Segments to look at.
    in_segment : callable
    times : array of int, shape (n,)
        Event times in milliseconds.

    Attributes
    ----------
    counts, missing : dict
        By subject and segment.
    drift : dict of str to float
        As `ReferenceStatistics.drift`, by `cell_name`.
    """

    def __init__(self, plan: PanePlan, keys: Sequence[str], in_segment: InSegment, times: Indexes) -> None:
        self._plan, self._keys, self._in_segment, self._times = plan, keys, in_segment, times
        self.counts: dict[str, dict[str, list[int]]] = {}
        self.missing: dict[str, dict[str, int]] = {}
        self.drift: dict[str, float] = {}

    def add(self, coded: Coded, watched: Subject | None, whole: Mapping[str, float]) -> None:
        """Take a feature in.

        Parameters
        ----------
        watched : Subject, optional
            Overall; says which distance decides.
        whole : mapping of str to float
            How far the reference's windows lie apart overall: a segment's differ at least as much.
        """
        for key in self._keys:
            for cell in cells_of(coded, [key], self._in_segment):
                lost = np.zeros(len(cell.rows), bool) if cell.missing is None else cell.missing
                present = cell.rows & ~lost
                counts = np.bincount(cell.codes[present], minlength=cell.size)
                self.counts.setdefault(coded.subject, {})[key] = counts.tolist()
                self.missing.setdefault(coded.subject, {})[key] = int((cell.rows & lost).sum())
                here = None
                if watched is not None:
                    here = with_noise(self._plan, replace(watched, reference=counts, ordered=None))
                own = own_windows(self._plan, cell, self._times, here)
                self.drift.update(self._at_least(coded.subject, key, own, whole))

    def _at_least(
        self, subject: str, key: str, own: Mapping[str, float], whole: Mapping[str, float]
    ) -> dict[str, float]:
        out = dict(own)
        cell = cell_name(subject, key)
        for window in self._plan.spec.time_windows or ("pane",):
            excess, dof = (drift_key(cell, window, name) for name in ("excess", "dof"))
            if own.get(excess, 0.0) < whole.get(drift_key(subject, window, "excess"), 0.0):
                out[excess] = whole[drift_key(subject, window, "excess")]
                out[dof] = whole[drift_key(subject, window, "dof")]
            for name in ("missing", "top"):
                of_whole = whole.get(drift_key(subject, window, name), 0.0)
                out[drift_key(cell, window, name)] = max(own.get(drift_key(cell, window, name), 0.0), of_whole)
        return out
