"""How segments differ from the whole: one number a segment (and measure), followed through labelled panes.

A segment is estimated as the whole is, with its own scores, and with what it usually lies off by: in logits of the
share of hits (classification), in logarithms of the loss (regression). Both are relative to the whole in the same pane,
so that what moves everything is learnt once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Floats

PRIOR_SPREAD: Final = 0.3
"""Standard deviation of what segments lie off by that is assumed."""
PANE_SPREAD: Final = 0.15
"""The same of what a segment does in a single pane, with the weight of `PRIOR_PANES`."""
PRIOR_PANES: Final = 5.0
_MOST: Final = 2.0
"""Largest distance of a pane that is learnt from at once."""
_MOST_SURPRISE: Final = 6.0
"""Largest square, in expected ones, that counts as evidence on how panes differ."""
_FARTHEST: Final = 6.0


class Parts:
    """What the segments of a version lie off by.

    Parameters
    ----------
    keys : sequence of str
        Segments.
    width : int
        Measures of each.
    state : bytes
        From `pack`; of another length: nothing is known.

    Attributes
    ----------
    offsets, information : array, shape (segments, width)
    panes, squares : array, shape (width,)
        Evidence on how single panes differ, of all segments together.
    """

    def __init__(self, keys: Sequence[str], width: int, state: bytes = b"") -> None:
        self.keys = tuple(keys)
        self.rows = {key: row for row, key in enumerate(self.keys)}
        shape, size = (len(self.keys), width), len(self.keys) * width
        numbers: Floats = np.zeros(2 * size + 2 * width)
        if len(state) == 8 * len(numbers):
            numbers = np.frombuffer(state, dtype="<f8").astype(np.float64)
        self.offsets = numbers[:size].reshape(shape).copy()
        self.information = numbers[size : 2 * size].reshape(shape).copy()
        self.panes, self.squares = numbers[2 * size : 2 * size + width].copy(), numbers[2 * size + width :].copy()

    def pack(self) -> bytes:
        """As bytes: little-endian numbers of eight bytes."""
        parts = (self.offsets.ravel(), self.information.ravel(), self.panes, self.squares)
        return np.concatenate(parts).astype("<f8").tobytes()

    @property
    def spread2(self) -> Floats:
        """Variance of what a segment does in a single pane, shape (width,)."""
        return np.asarray((PRIOR_PANES * PANE_SPREAD**2 + np.maximum(self.squares, 0.0)) / (PRIOR_PANES + self.panes))

    def variance(self, row: int, panes: float) -> Floats:
        """Of a segment's offsets in a window of so many independent panes, shape (width,)."""
        known = 1.0 / (1.0 / PRIOR_SPREAD**2 + self.information[row])
        return np.asarray(known + self.spread2 / max(panes, 1.0))

    def learn(self, rows: NDArray[np.int64], off: Floats, chance: Floats, kept: float) -> None:
        """Take a labelled pane in.

        Parameters
        ----------
        rows : array of int, shape (k,)
            Segments that had labels, each once.
        off, chance : array, shape (k, width)
            What they lay off by in the pane beyond `offsets`, and its variance by chance; infinite: nothing is known.
        kept : float
            Share of what was known before that stays.
        """
        self.information *= kept
        if not len(rows):
            return
        spread2 = self.spread2
        off = np.where(np.isfinite(chance), np.clip(off, -_MOST, _MOST), 0.0)
        with np.errstate(divide="ignore"):
            said = 1.0 / (chance + spread2)
        told = np.isfinite(chance) & (chance < 1.0)
        # Neighbouring segments share what moves a day: together they count as one pane.
        weight = told / np.maximum(told.sum(axis=0), 1)
        doubt = chance + 1.0 / (1.0 / PRIOR_SPREAD**2 + self.information[rows])
        self.panes = kept * self.panes + weight.sum(axis=0)
        # Cut: a segment that changed for good lies off, too, and must not look as if its panes differed that much.
        square = np.minimum(off**2, _MOST_SURPRISE * (doubt + spread2))
        self.squares = kept * self.squares + (weight * np.where(told, square - doubt, 0.0)).sum(axis=0)
        prior = 1.0 / PRIOR_SPREAD**2
        self.information[rows] += said
        step = (said * off - (1.0 - kept) * prior * self.offsets[rows]) / (prior + self.information[rows])
        self.offsets[rows] = np.clip(self.offsets[rows] + step, -_FARTHEST, _FARTHEST)
