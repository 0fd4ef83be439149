"""What share of hits a score stands for: learnt from held-out rows, followed through labelled panes.

logit p = logit(score) + offset(score), where the offset bends at a few knots: a logistic regression with a smooth
correction. It is followed as a dynamic model: what was learnt fades with a half-life, every labelled pane adds what it
says, and a pane counts as one draw of a common shift besides its events, so that one odd day does not pass for
thousands of independent labels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from streams.columns import Floats

MOST_KNOTS: Final = 8
SPACING: Final = 0.5
"""Least distance of knots, in logits."""
_TAIL: Final = 0.005
_LEVEL: Final = 10.0
_SLOPE: Final = 1.0
_BEND: Final = 0.5
"""Standard deviations of what is assumed of the offsets: of their level, from knot to knot, and of that difference."""
PRIOR_SPREAD: Final = 0.15
"""Standard deviation of the shift between panes that is assumed, in logits, with the weight of `PRIOR_PANES`."""
PRIOR_PANES: Final = 3.0
HALF_LIFE_MS: Final = 14 * 86_400_000
LEAST_HALF_LIFE: Final = 10
"""The same in panes, where these are long."""
_MOST_STEP: Final = 1.0
MOST_SHIFT: Final = 3.0
"""Larger shifts of a pane count as this, in logits."""


def logits(p: Floats) -> Floats:
    """Logit of shares strictly between 0 and 1."""
    return np.log(p) - np.log1p(-p)


def shares(logit: Floats) -> Floats:
    """The inverse of `logits`."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -36.0, 36.0))))


def bin_scores(edges: Floats) -> Floats:
    """The score that stands for each bin, in the middle of its edges by logit: shape (edges + 1,)."""
    at = logits(edges)
    middle = (at[1:] + at[:-1]) / 2
    return shares(np.concatenate([[at[0] - 1 / 16], middle, [at[-1] + 1 / 16]]))


def knots_of(scores: Floats, n: Floats) -> list[float]:
    """Knots over the logits between which nearly all events lie, evenly spaced."""
    at = logits(scores)
    share = np.cumsum(n) / n.sum()
    low, high = (float(at[min(int(np.searchsorted(share, q)), len(at) - 1)]) for q in (_TAIL, 1 - _TAIL))
    count = min(1 + math.ceil((high - low) / SPACING), MOST_KNOTS)
    return [round(float(knot), 4) for knot in np.linspace(low, high, count)] if count > 1 else [round(low, 4)]


def hats(knots: Floats, at: Floats) -> Floats:
    """How much each knot says at each logit, shape (len(at), knots); rows sum to 1, constant beyond the ends."""
    if len(knots) == 1:
        return np.ones((len(at), 1))
    held = np.clip(at, knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, held, side="right") - 1, 0, len(knots) - 2)
    share = (held - knots[left]) / (knots[left + 1] - knots[left])
    out = np.zeros((len(at), len(knots)))
    rows = np.arange(len(at))
    out[rows, left] = 1.0 - share
    out[rows, left + 1] = share
    return out


def smoothness(knots: int) -> Floats:
    """Precision of what is assumed of the offsets before anything was seen, shape (knots, knots)."""
    out = np.eye(knots) / _LEVEL**2
    for order, spread in ((1, _SLOPE), (2, _BEND)):
        if knots > order:
            difference = np.diff(np.eye(knots), order, axis=0)
            out += difference.T @ difference / spread**2
    return out


@lru_cache(maxsize=32)
def _triangle(knots: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(knots)


class CalibrationState(NamedTuple):
    """What is learnt of a calibration.

    `offsets` by knot; `information` on them, shape (knots, knots); `panes`, `squares`: weight and sum of squares of the
    evidence on the spread between panes; `last`: level of the newest pane, and its precision (0: there was none).
    """

    offsets: Floats
    information: Floats
    panes: float = 0.0
    squares: float = 0.0
    last: tuple[float, float] = (0.0, 0.0)

    def pack(self) -> bytes:
        """As bytes: little-endian numbers of eight bytes."""
        upper = self.information[_triangle(len(self.offsets))]
        rest = (self.panes, self.squares, *self.last)
        return np.concatenate([self.offsets, upper, rest]).astype("<f8").tobytes()

    @classmethod
    def unpack(cls, data: bytes, knots: int) -> CalibrationState | None:
        """What `pack` wrote; None where it is of another number of knots."""
        size = knots * (knots + 1) // 2
        if len(data) != 8 * (knots + size + 4):
            return None
        numbers = np.frombuffer(data, dtype="<f8").astype(np.float64)
        panes, squares, level, precision = numbers[-4:].tolist()
        return cls(numbers[:knots].copy(), symmetric(numbers[knots:-4], knots), panes, squares, (level, precision))


def symmetric(upper: Floats, size: int) -> Floats:
    """The symmetric matrix of an upper triangle, given by rows."""
    out = np.zeros((size, size))
    rows, columns = _triangle(size)
    out[rows, columns] = upper
    out[columns, rows] = upper
    return out


class Bins(NamedTuple):
    """Labelled events by bin: what the knots say there, the logit of the score, events and hits."""

    basis: Floats
    logit: Floats
    n: Floats
    hits: Floats


class Said(NamedTuple):
    """What one pane says: information matrix and gradient, and of its common shift the estimate and its precision."""

    information: Floats
    gradient: Floats
    shift: float
    precision: float


class Calibration:
    """A calibration that is followed over time.

    Parameters
    ----------
    prior : array, shape (knots, knots)
        From `smoothness`.
    reference : CalibrationState
        What held-out rows said: what is learnt fades towards it.
    state : CalibrationState, optional
        Where to go on.
    """

    def __init__(self, prior: Floats, reference: CalibrationState, state: CalibrationState | None = None) -> None:
        self._prior = prior
        self._level = reference.offsets
        self.offsets, self.information, self.panes, self.squares, self.last = state or reference
        self._known: Floats | None = None

    def state(self) -> CalibrationState:
        """What is learnt."""
        return CalibrationState(self.offsets, self.information, self.panes, self.squares, self.last)

    @property
    def spread2(self) -> float:
        """Variance of the common shift of a pane, in logits."""
        return (PRIOR_PANES * PRIOR_SPREAD**2 + max(self.squares, 0.0)) / (PRIOR_PANES + self.panes)

    def probabilities(self, basis: Floats, logit: Floats) -> Floats:
        """Share of hits by bin."""
        return shares(logit + basis @ self.offsets)

    def covariance(self, panes: float) -> Floats:
        """Of the offsets in a window of so many independent panes: what is not known, and how panes differ."""
        if self._known is None:
            self._known = cast(Floats, np.linalg.inv(self._prior + self.information))
        return np.asarray(self._known + self.spread2 / max(panes, 1.0))

    def says(self, bins: Bins) -> Said:
        """What a pane's labels say about the offsets as they stand.

        Notes
        -----
        The residuals are those of the share itself, not of one given the pane's shift: so the calibration stays that of
        an average pane, whatever weight the panes get (Liang and Zeger's estimating equations).
        """
        p = self.probabilities(bins.basis, bins.logit)
        weight = bins.n * p * (1 - p)
        information = bins.basis.T @ (weight[:, None] * bins.basis)
        gradient = bins.basis.T @ (bins.hits - bins.n * p)
        # Rows of the basis sum to 1: a shift common to the pane is the direction in which all offsets move alike.
        along, precision, pull = information.sum(axis=1), float(information.sum()), float(gradient.sum())
        damped = 1.0 / (1.0 / self.spread2 + precision)
        return Said(
            information - damped * np.outer(along, along),
            gradient - damped * pull * along,
            pull / precision if precision > 0 else 0.0,
            precision,
        )

    def learn(self, bins: Bins, kept: float) -> None:
        """Take a labelled pane in; of what was known before, the share `kept` stays."""
        said = self.says(bins)
        if said.precision <= 0:
            return
        self._spread(float(self.offsets.mean()) + said.shift, max(said.precision, 0.25), kept)
        information = kept * self.information + said.information
        # Exactly symmetric: half of it is kept, and a restart must go on with the same bits.
        self.information = symmetric(information[_triangle(len(information))], len(information))
        pull = said.gradient - (1.0 - kept) * (self._prior @ (self.offsets - self._level))
        step = np.linalg.solve(self._prior + self.information, pull)
        self._known = None
        # One step of Newton's is right near the truth; far from it, walk there.
        self.offsets = self.offsets + step * min(1.0, _MOST_STEP / max(float(np.abs(step).max()), 1e-12))

    def _spread(self, level: float, precision: float, kept: float) -> None:
        """Evidence on how panes differ: as neighbours do, whatever slow change lies beneath (von Neumann)."""
        before, known = self.last
        if known > 0:
            chance = (1.0 / precision + 1.0 / known) / 2
            self.panes = kept * self.panes + 1.0
            self.squares = kept * self.squares + min((level - before) ** 2, MOST_SHIFT**2) / 2 - chance
        self.last = (level, precision)


def kept_of(pane_ms: int) -> float:
    """Share of what is known that stays when a pane is learnt."""
    return float(0.5 ** (1.0 / max(HALF_LIFE_MS / pane_ms, LEAST_HALF_LIFE)))


def fit(basis: Floats, logit: Floats, *, n: Floats, hits: Floats) -> CalibrationState:
    """Calibration of labelled blocks.

    Parameters
    ----------
    basis : array, shape (bins, knots)
    logit : array, shape (bins,)
    n, hits : array, shape (blocks, bins)

    Notes
    -----
    The offsets are those of all blocks together; their information and the spread between blocks come from single ones.
    """
    size = basis.shape[1]
    prior = smoothness(size)
    offsets = _fit_offsets(prior, Bins(basis, logit, n.sum(axis=0), hits.sum(axis=0)))
    out = Calibration(prior, CalibrationState(offsets, np.zeros((size, size))))
    blocks = [Bins(basis, logit, block, hit) for block, hit in zip(n, hits, strict=True)]
    told = [said for block in blocks if (said := out.says(block)).precision > 1.0]
    if len(told) > 1:
        out.squares = sum(min(one.shift**2, MOST_SHIFT**2) - 1.0 / one.precision for one in told)
        out.panes = float(len(told) - 1)
    for block in blocks:
        out.information = out.information + out.says(block).information
    out.information = symmetric(out.information[_triangle(size)], size)
    return out.state()


def _fit_offsets(prior: Floats, bins: Bins) -> Floats:
    """Penalised maximum likelihood by Newton's method, steps halved where they do not help."""
    start = (bins.hits + 0.5) / (bins.n + 1.0)
    weight = bins.n * start * (1 - start)
    normal = bins.basis.T @ (weight[:, None] * bins.basis) + prior
    offsets = cast(Floats, np.linalg.solve(normal, bins.basis.T @ (weight * (logits(start) - bins.logit))))

    def loss(at: Floats) -> float:
        eta = bins.logit + bins.basis @ at
        surprise = bins.n * np.logaddexp(0.0, eta) - bins.hits * eta
        return float(surprise.sum() + at @ prior @ at / 2)

    now = loss(offsets)
    for _ in range(50):
        p = shares(bins.logit + bins.basis @ offsets)
        weight = bins.n * p * (1 - p)
        normal = bins.basis.T @ (weight[:, None] * bins.basis) + prior
        step = np.linalg.solve(normal, bins.basis.T @ (bins.hits - bins.n * p) - prior @ offsets)
        size = 1.0
        while size > 1e-4 and (then := loss(offsets + size * step)) > now:
            size /= 2
        if size <= 1e-4 or now - then < 1e-10 * (1.0 + abs(now)):
            break
        offsets, now = offsets + size * step, then
    return offsets
