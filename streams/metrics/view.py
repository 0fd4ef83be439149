"""Counters of one window, read by the names of the plan's layout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from streams.panes import LIMB_BITS, PanePlan

Dense = NDArray[np.int64]


def dense(plan: PanePlan, counters: Mapping[int, int]) -> Dense:
    """Counters as an array by position."""
    out = np.zeros(plan.size, dtype=np.int64)
    if counters:
        out[np.fromiter(counters.keys(), dtype=np.intp, count=len(counters))] = np.fromiter(
            counters.values(), dtype=np.int64, count=len(counters)
        )
    return out


class View:
    """Counters of one window.

    Parameters
    ----------
    plan : PanePlan
    counts : array of int64
        By position; of a segment up to `plan.segment_size`.
    """

    def __init__(self, plan: PanePlan, counts: Dense) -> None:
        self.plan = plan
        self.counts = counts

    def one(self, name: str) -> int:
        """A single counter."""
        return int(self.counts[self.plan.slots[name].start])

    def many(self, name: str) -> Dense:
        """A span of counters."""
        return self.counts[self.plan.slots[name]]

    def square(self, name: str) -> int:
        """A sum of squares, from its two limbs."""
        return (self.one(f"{name}_high") << LIMB_BITS) + self.one(f"{name}_low")

    @property
    def matrix(self) -> Dense:
        """Confusion matrix of a binary model at its threshold: rows truth, columns prediction, none of both last."""
        return self.many("confusion").reshape(3, 3)
