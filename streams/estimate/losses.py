"""Error model of a regression: the loss that a prediction's bin and its features' bins stand for, times a level.

The loss of an event is taken as a sum over its bins, so that its mean over a window needs no more than the window's
counts by bin. The sums come from held-out rows; the level follows labelled panes, as a dynamic model of its logarithm.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import sparse

from schemas.metrics import split
from schemas.reference import NumericReference
from streams.columns import Floats, Indexes
from streams.panes import PanePlan
from streams.sketches import coarse_groups

RIDGE: Final = 100.0
"""Rows with the mean loss that every bin is drawn towards."""
LEAST_SHARE: Final = 0.05
"""An estimate never falls below this share of the reference's loss: sums of bins may."""
STATE_BYTES: Final = 48
"""What `LevelState.pack` makes."""
PRIOR_SPREAD: Final = 0.1
PRIOR_PANES: Final = 3.0
_LEVEL: Final = 1.0
_FARTHEST: Final = 20.0
_MOST: Final = 2.0
"""Largest logarithm of realised over expected loss that counts at all, and that is learnt from at once."""


class LossReference(NamedTuple):
    """One loss on held-out rows: `mean`; `ratio`: variance of one event's loss in squared means; `weights`: what each
    position of `positions_of` adds to the mean."""

    mean: float
    ratio: float
    weights: list[float]


class LevelState(NamedTuple):
    """Logarithm of realised over expected loss: mean, information, the evidence on its spread between panes (weight,
    sum of squares), and what the newest pane said with its variance by chance (0: there was none)."""

    level: float = 0.0
    information: float = 0.0
    panes: float = 0.0
    squares: float = 0.0
    last: float = 0.0
    chance: float = 0.0

    def pack(self) -> bytes:
        """As bytes: little-endian numbers of eight bytes."""
        return struct.pack("<6d", *self)

    @classmethod
    def unpack(cls, data: bytes, count: int) -> list[LevelState]:
        """What `pack` wrote, `count` times; nothing where it is of another number."""
        return (
            [cls(*numbers) for numbers in struct.iter_unpack("<6d", data)] if len(data) == STATE_BYTES * count else []
        )


def loss_of(name: str, miss: Floats) -> Floats | None:
    """Loss of single events whose mean (of `rmse`: its root) is the metric; None where there is none."""
    family, argument = split(name)
    if family == "mae":
        return np.abs(miss)
    if family == "rmse":
        return miss * miss
    if family == "quantile_loss[Q]":
        q = float(argument)
        return np.maximum(-q * miss, (1.0 - q) * miss)
    return None


def positions_of(plan: PanePlan) -> list[tuple[int, ...]]:
    """Counters that weights stand for: bins of the prediction, then of each feature, with one for unusable values."""
    scores = plan.slots["scores"]
    out: list[tuple[int, ...]] = [(at,) for at in range(scores.start, scores.stop)]
    for where in plan.features.values():
        feature = plan.reference.features[where.name]
        size = where.bins.stop - where.bins.start
        groups = coarse_groups(feature) if isinstance(feature, NumericReference) else np.arange(size)
        for group in range(int(groups[-1]) + 1):
            out.append(tuple((where.bins.start + np.flatnonzero(groups == group)).tolist()))
        out.append((where.missing, where.invalid))
    return out


def fit_weights(codes: Sequence[tuple[Indexes, int]], loss: Floats) -> tuple[float, list[float]]:
    """Mean loss and what each bin adds to it.

    Parameters
    ----------
    codes : sequence of (array of int, shape (n,); number of bins)
        Bin of every row, by subject.
    loss : array, shape (n,)
    """
    n = len(loss)
    sizes = [size for _, size in codes]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    columns = np.concatenate([code + start for (code, _), start in zip(codes, starts, strict=True)])
    rows = np.tile(np.arange(n), len(codes))
    design = sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(n, int(sum(sizes))))
    mean = float(loss.mean())
    normal = (design.T @ design).toarray() + RIDGE * np.eye(design.shape[1])
    weights = np.linalg.solve(normal, design.T @ (loss - mean))
    # Centred, so that the mean over the reference is the mean: the ridge draws to it alone.
    offset = float((design @ weights).mean())
    return mean - offset, [float(f"{weight:.5g}") for weight in weights]


class Level:
    """The level of one loss, followed over time.

    Parameters
    ----------
    ratio : float
        Variance of one event's loss in squared means.
    state : LevelState
    """

    def __init__(self, ratio: float, state: LevelState) -> None:
        self.ratio = ratio
        self.state = state

    @property
    def spread2(self) -> float:
        """Variance between panes of the logarithm."""
        state = self.state
        return (PRIOR_PANES * PRIOR_SPREAD**2 + max(state.squares, 0.0)) / (PRIOR_PANES + state.panes)

    def variance(self, panes: float) -> float:
        """Of the logarithm in a window of so many independent panes."""
        return 1.0 / (1.0 / _LEVEL**2 + self.state.information) + self.spread2 / max(panes, 1.0)

    def learn(self, realised: float, base: float, *, n: int, kept: float) -> None:
        """Take the mean loss of `n` labelled events in; `base` is what their bins stand for."""
        if n <= 0 or not 0 < base < math.inf:
            return
        state = self.state
        seen = min(max(math.log(max(realised, 1e-300)) - math.log(base), -_FARTHEST), _FARTHEST)
        off = min(max(seen - state.level, -_MOST), _MOST)
        chance = min(self.ratio / n, _MOST**2)
        panes, squares = state.panes, state.squares
        if state.chance > 0:  # neighbours differ as panes do, whatever slow change lies beneath
            panes = kept * panes + 1.0
            squares = kept * squares + (min((seen - state.last) ** 2, _MOST**2) - chance - state.chance) / 2
        said = 1.0 / (chance + self.spread2)
        information = kept * state.information + said
        pull = said * off - (1.0 - kept) * state.level / _LEVEL**2
        self.state = LevelState(
            state.level + pull / (1.0 / _LEVEL**2 + information),
            information,
            panes,
            squares,
            seen,
            chance,
        )
