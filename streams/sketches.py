"""Quantiles of a reference's numbers from its KLL sketch."""

from __future__ import annotations

import base64
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.reference import NumericReference

Floats = NDArray[np.float64]

COARSE_BINS: Final = 10


def quantiles(reference: NumericReference, ranks: Floats) -> Floats:
    """Values at `ranks` (0–1); empty where the reference holds no numbers.

    References
    ----------
    Karnin, Lang and Liberty (2016), Optimal quantile approximation in streams.
    """
    if not reference.sketch:
        return np.empty(0)
    from datasketches import kll_doubles_sketch

    sketch = kll_doubles_sketch.deserialize(base64.b64decode(reference.sketch))
    if sketch.is_empty():
        return np.empty(0)
    return np.asarray(sketch.get_quantiles(np.clip(ranks, 0.0, 1.0)), dtype=np.float64)


def bin_centres(reference: NumericReference) -> Floats:
    """A typical value of every bin: the reference's median inside it, or the middle of the edges.

    Returns
    -------
    array, shape (len(counts),), ascending
    """
    edges = np.asarray(reference.edges, dtype=np.float64)
    low = np.concatenate([[reference.minimum], edges])
    high = np.concatenate([edges, [reference.maximum]])
    counts = np.asarray(reference.counts, dtype=np.float64)
    total = counts.sum()
    middle = (low + high) / 2
    if total > 0:
        found = quantiles(reference, (np.cumsum(counts) - counts / 2) / total)
        if len(found) == len(middle):
            middle = np.clip(found, np.minimum(low, high), np.maximum(low, high))
    return np.maximum.accumulate(middle)


def coarse_groups(reference: NumericReference, bins: int = COARSE_BINS) -> NDArray[np.int64]:
    """Bin of the comparison, of about `bins` that hold equal shares of the reference, by bin of the reference.

    Returns
    -------
    array, shape (len(counts),), ascending
    """
    size, total = len(reference.counts), sum(reference.counts)
    if size <= bins or not total:
        return np.arange(size)
    below = np.cumsum(reference.counts)[:-1]
    kept = np.unique(np.searchsorted(below, np.arange(1, bins) * total // bins, side="right") - 1)
    return np.searchsorted(kept[kept >= 0], np.arange(size) - 1, side="right")


def coarsened(reference: NumericReference) -> NumericReference:
    """The reference in the bins of the comparison."""
    groups = coarse_groups(reference)
    if len(groups) == 0 or int(groups[-1]) == len(groups) - 1:
        return reference
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return msgspec.structs.replace(
        reference,
        edges=[reference.edges[at - 1] for at in starts[1:]],
        counts=np.add.reduceat(reference.counts, starts).tolist(),
        means=[],
    )


def coarse_edges(scores: NumericReference, bins: int = COARSE_BINS) -> list[float]:
    """About `bins` − 1 of the edges, so that the bins between them hold equal shares of the reference."""
    total = sum(scores.counts)
    if len(scores.edges) < bins or not total:
        return list(scores.edges)
    cumulative = np.cumsum(scores.counts)[:-1]
    at = np.unique(np.searchsorted(cumulative, np.arange(1, bins) * total / bins))
    return [scores.edges[i] for i in at if i < len(scores.edges)]
