"""Errors of a regression by bin of its prediction, followed through labelled panes.

The losses that bins stand for (`streams.estimate.losses`) come from held-out rows. Where errors change in some bins
only (the large predictions become worse), a level for all of them is wrong as soon as the mix of bins changes. So each
bin has a factor of its own beside the level: how much larger its absolute errors are than the reference's, relative to
all bins of the same pane.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from streams.columns import Floats

PRIOR_SPREAD: Final = 0.5
"""Standard deviation of the logarithm of a factor that is assumed."""
PANE_SPREAD: Final = 0.1
"""The same of what a bin does in a single pane, beside all bins and beside chance."""
SHRINK: Final = 50.0
"""Rows with the mean loss that a bin of the reference is drawn towards."""
_MOST_STEP: Final = 1.0
_LEAST: Final = 1e-300
_FARTHEST: Final = 4.0


class BinReference(NamedTuple):
    """What held-out rows say: mean absolute error by bin, variance of one event's in squared means, information."""

    errors: Floats
    ratio: float
    information: Floats


class BinFactors:
    """Logarithms of the factors, with the information on them; shape (bins,) both.

    Parameters
    ----------
    reference : BinReference
    state : bytes
        From `pack`; of another length: what the reference says.
    """

    def __init__(self, reference: BinReference, state: bytes = b"") -> None:
        self._reference = reference
        size = len(reference.errors)
        if len(state) == 16 * size:
            numbers = np.frombuffer(state, dtype="<f8").astype(np.float64)
            self.offsets, self.information = numbers[:size].copy(), numbers[size:].copy()
        else:
            self.offsets, self.information = np.zeros(size), reference.information.copy()

    def pack(self) -> bytes:
        """As bytes: little-endian numbers of eight bytes."""
        return np.concatenate([self.offsets, self.information]).astype("<f8").tobytes()

    @property
    def variance(self) -> Floats:
        """Of each logarithm."""
        return np.asarray(1.0 / (1.0 / PRIOR_SPREAD**2 + self.information))

    def learn(self, n: Floats, errors: Floats, kept: float) -> None:
        """Take a labelled pane in.

        Parameters
        ----------
        n, errors : array, shape (bins,)
            Labelled events, and the sum of their absolute errors.
        kept : float
            Share of what was known before that stays.
        """
        reference = self._reference
        expected = reference.errors * np.exp(self.offsets)
        whole, seen = float((n * expected).sum()), float(errors.sum())
        if not (0 < whole < math.inf and 0 < seen < math.inf):
            return
        # What all bins do together is the level's to follow.
        expected = expected * (seen / whole)
        if not (np.isfinite(expected) & (expected > _LEAST)).all():  # errors too small or too large to be divided
            return
        some = max(reference.ratio, 0.5)
        weight = n + some  # events of the expected size beside the real ones: a bin may hold one, without an error
        off = np.log((errors + some * expected) / (weight * expected)) + reference.ratio * n / (2 * weight**2)
        said = 1.0 / (reference.ratio / np.maximum(n, 1.0) + PANE_SPREAD**2) * (n > 0)
        prior = 1.0 / PRIOR_SPREAD**2
        self.information = kept * self.information + said
        step = (said * off - (1.0 - kept) * prior * self.offsets) / (prior + self.information)
        self.offsets = np.clip(self.offsets + np.clip(step, -_MOST_STEP, _MOST_STEP), -_FARTHEST, _FARTHEST)


def shrunk(n: Floats, total: Floats) -> Floats:
    """Means by bin, drawn towards that of all."""
    whole = float(total.sum() / n.sum())
    return np.asarray((total + SHRINK * whole) / (n + SHRINK))


def information_of(n: Floats, ratio: float) -> Floats:
    """What blocks of labelled rows say about the factor of each bin; `n` has shape (blocks, bins)."""
    return np.asarray(((n > 0) / (ratio / np.maximum(n, 1.0) + PANE_SPREAD**2)).sum(axis=0))
