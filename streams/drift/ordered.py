"""Kolmogorov-Smirnov and Wasserstein distances of numbers, from counts by bin: within 0.01 of those of the raw values.

Three things make up for the values that nobody keeps. Bins are twice as fine as those that PSI compares. Between two
edges the window's share is taken to grow as the reference's does, whose mean in every bin says where its values lie.
And of the first and the last bin, where a few values may lie anywhere, the window's own sums are kept: what the
cumulative shares differ by beyond an edge adds up to a difference of mean excesses, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

SOON: Final = 0.85
"""Of how far into a bin the straight line says that a window begins: most distributions begin more slowly."""


@dataclass(frozen=True)
class Ordered:
    """The reference of one subject whose bins have an order; all values in its standard deviations from its mean.

    Parameters
    ----------
    counts : array of int, shape (bins,)
    edges : array of float, shape (bins - 1,)
    means : array of float, shape (bins,)
        Of the values in each bin.
    tails : tuple of float
        Standard deviations of the values in the first and in the last bin.
    groups : array of int
        Bin by position of the subject's counters.
    slots : tuple of int, or None
        Positions of low, high, total, first_total and last_total; None where they are not counted.
    """

    counts: Counts
    edges: Floats
    means: Floats
    tails: tuple[float, float]
    groups: Counts
    slots: tuple[int, int, int, int, int] | None

    @property
    def excess(self) -> tuple[float, float]:
        """Mean excess below the first edge and above the last one, over all values."""
        if not len(self.edges):
            return 0.0, 0.0
        n = max(int(self.counts.sum()), 1)
        low = float(self.edges[0] - self.means[0]) * int(self.counts[0]) / n
        return low, float(self.means[-1] - self.edges[-1]) * int(self.counts[-1]) / n

    def chance(self) -> float:
        """Mean square of the Wasserstein distance of samples of one distribution, times n m / (n + m).

        Notes
        -----
        The distance is a sum of absolute values of nearly normal variables: gaps between the cumulative shares at the
        edges (a Brownian bridge), and differences of the mean excess beyond the outer ones. Mean products of the
        absolute values follow from their covariances.
        """
        if not len(self.edges):
            return 1e-12
        n = max(float(self.counts.sum()), 1.0)
        level = np.cumsum(self.counts)[:-1] / n
        covariance = np.minimum.outer(level, level) - np.outer(level, level)
        weight = np.zeros(len(level))
        inner = slice(1, -1)
        weight[:-1] += (self.means[inner] - self.edges[:-1]) if len(level) > 1 else 0.0
        weight[1:] += (self.edges[1:] - self.means[inner]) if len(level) > 1 else 0.0
        if self.slots is None:
            weight[0] += self.edges[0] - self.means[0]
            weight[-1] += self.means[-1] - self.edges[-1]
        else:
            low, high = self.excess
            outer = self.edges[0] - self.means[0], self.means[-1] - self.edges[-1]
            square = [
                share * (spread**2 + far**2)
                for share, spread, far in zip((level[0], 1 - level[-1]), self.tails, outer, strict=True)
            ]
            beside = np.stack([low * (1 - level), -high * level])
            corner = np.array([[square[0] - low**2, -low * high], [-low * high, square[1] - high**2]])
            covariance = np.block([[covariance, beside.T], [beside, corner]])
            weight = np.append(weight, [1.0, 1.0])
        spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale = np.outer(spread, spread)
        rho = np.clip(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)
        products = 2 / np.pi * (np.sqrt(1 - rho * rho) + rho * np.arcsin(rho)) * scale
        return max(float(weight @ products @ weight), 1e-12)


class OrderedTable:
    """Such subjects side by side, as rows of padded matrices.

    Parameters
    ----------
    subjects : sequence of Ordered

    Attributes
    ----------
    shape : tuple of int
        (subjects, bins of the longest).
    """

    def __init__(self, subjects: Sequence[Ordered]) -> None:
        sizes = [len(subject.counts) for subject in subjects]
        self.shape = (len(sizes), max(sizes, default=1))
        rows, width = self.shape
        self._last = np.array(sizes, dtype=np.int64) - 1
        self._level = np.ones(self.shape)
        """Share of the reference up to the end of each bin."""
        self._lower, self._upper = np.zeros((rows, max(width - 2, 0))), np.zeros((rows, max(width - 2, 0)))
        """Mean distances of an inner bin's values from its lower edge, and to its upper one."""
        self._spread = np.zeros(self.shape, dtype=bool)
        """Whether a bin holds more than one value."""
        self._edges, self._excess, self._outer = np.zeros((rows, 2)), np.zeros((rows, 2)), np.zeros((rows, 2))
        self._summed = np.array([subject.slots is not None for subject in subjects], dtype=bool)
        self._inverse = np.zeros(rows)
        for row, subject in enumerate(subjects):
            size, edges, means = len(subject.counts), subject.edges, subject.means
            self._level[row, :size] = np.cumsum(subject.counts) / max(int(subject.counts.sum()), 1)
            if not len(edges):
                continue
            self._lower[row, : size - 2] = means[1:-1] - edges[:-1]
            self._upper[row, : size - 2] = edges[1:] - means[1:-1]
            self._spread[row, 1:size] = means[1:] - edges > 1e-9
            self._spread[row, 0] = subject.tails[0] > 1e-9
            self._edges[row] = edges[0], edges[-1]
            self._excess[row] = subject.excess
            self._outer[row] = edges[0] - means[0], means[-1] - edges[-1]
            self._inverse[row] = 1.0
        self._width = self._lower + self._upper

    def distances(self, counts: Floats, rest: Floats) -> tuple[Floats, Floats]:
        """Distances of windows from the references.

        Parameters
        ----------
        counts : array, shape (subjects, bins)
            Of a table of one subject: of any number of its windows.
        rest : array, shape (subjects, 5)
            Values below the reference's least and above its largest one; sums of all values, of those in the first
            and of those in the last bin, in standard deviations from the reference's mean.

        Returns
        -------
        ks, wasserstein : array, shape (subjects,)
            0–1, and in standard deviations of the reference.
        """
        inverse = 1.0 / np.maximum(counts.sum(axis=1), 1.0)
        share = np.cumsum(counts, axis=1)
        share *= inverse[:, None]
        gap = share - self._level
        rest = rest * inverse[:, None]
        size = np.abs(gap)
        row = np.arange(len(counts))
        last = self._last if len(self._last) == len(counts) else np.repeat(self._last, len(counts))
        ks = np.maximum(size.max(axis=1), rest[:, :2].max(axis=1))
        begins = np.flatnonzero((counts[:, 0] == 0) & (rest[:, 0] == 0) & (last > 1))
        ends = np.flatnonzero((counts[row, last] == 0) & (rest[:, 1] == 0) & (last > 1))
        for rows, step in ((begins, 1), (ends, -1)):
            if len(rows):
                self._raise(ks, rows, share[rows], last[rows], step)

        one, other = gap[:, :-2], gap[:, 1:-1]
        low, high = size[:, :-2], size[:, 1:-1]
        area = low * self._lower + high * self._upper
        turned = (one * other < 0) & self._spread[:, 1:-1]
        if turned.any():
            # The gap changes its sign within the bin: two triangles.
            both = np.maximum(low + high, 1e-300)
            area = np.where(turned, (low * low + high * high) / (2 * both) * self._width, area)
        first_share, last_share = counts[:, 0] * inverse, counts[row, last] * inverse
        summed = np.stack(
            [self._edges[:, 0] * first_share - rest[:, 3], rest[:, 4] - self._edges[:, 1] * last_share], axis=1
        )
        guessed = np.stack([size[:, 0], size[row, np.maximum(last - 1, 0)]], axis=1) * self._outer
        tails = np.where(self._summed[:, None], np.abs(summed - self._excess), guessed)
        total = area.sum(axis=1) + tails.sum(axis=1)
        # No way of moving the values is shorter than what their mean moved.
        total = np.maximum(total, np.abs(rest[:, 2]) * self._summed)
        return ks, np.asarray(total * self._inverse)

    def _raise(self, ks: Floats, rows: Counts, share: Floats, last: Counts, step: int) -> None:
        """Raise the distance of windows that begin after (step 1), or end before (-1) the reference does.

        Notes
        -----
        Up to its first value a window has nothing, the reference all that it holds there. Where in its bin the window
        begins is told by how its share grows in the next one, as by a straight line.
        """
        own = rows if self.shape[0] > 1 else np.zeros_like(rows)
        level, spread = self._level[own], self._spread[own]
        reference = np.diff(level, axis=1, prepend=0.0)
        mine = np.diff(share, axis=1, prepend=0.0)
        filled = mine > 0
        at = filled.argmax(axis=1) if step > 0 else filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
        pick = np.arange(len(rows))
        beside = np.clip(at + step, 0, last)
        told = filled.any(axis=1) & (beside != at) & spread[pick, at] & spread[pick, beside] & filled[pick, beside]
        width = reference[pick, at]
        slope = mine[pick, beside] / np.maximum(reference[pick, beside], 1e-12)
        within = width - SOON * (width - np.minimum(mine[pick, at] / np.maximum(slope, 1e-12), width))
        before = level[pick, at] if step > 0 else 1.0 - level[pick, at] + width
        ks[rows] = np.maximum(ks[rows], np.where(told, before - within, 0.0))
