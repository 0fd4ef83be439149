"""The distribution of label delays, from a histogram whose bins are an eighth of an octave wide."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

_BITS: Final = 3
BINS_PER_OCTAVE: Final = 1 << _BITS
_QUANTILES: Final = {"label_delay_p50_s": 0.50, "label_delay_p90_s": 0.90, "label_delay_p99_s": 0.99}


def delay_bin(seconds: int) -> int:
    """Bin of a delay in whole seconds, ≥ 0: every second below 16 has one of its own, then eight share an octave.

    Examples
    --------
    >>> [delay_bin(s) for s in (0, 1, 15, 16, 17, 18, 31, 32)]
    [0, 1, 15, 16, 16, 17, 23, 24]
    """
    exponent = max(seconds.bit_length() - _BITS - 1, 0)
    return BINS_PER_OCTAVE * exponent + (seconds >> exponent)


def delay_edge(position: int) -> int:
    """Smallest delay, in seconds, of a bin; that of the next bin is the first beyond it."""
    exponent = max(position // BINS_PER_OCTAVE - 1, 0)
    return (position - BINS_PER_OCTAVE * exponent) << exponent


def label_delays(counts: Counts, total_s: int, longest_s: int) -> dict[str, float]:
    """Mean and quantiles of the delay, in seconds; empty where there is no label.

    Parameters
    ----------
    counts : array of int
        Labels by `delay_bin`.
    total_s : int
        Sum of the delays, each cut to whole seconds.
    longest_s : int
        `max_label_delay`: no delay is longer.

    Notes
    -----
    The mean is off by less than a second. A quantile (inverted distribution function, straight inside the bin) lies in
    the bin of the true one: it is off by at most an eighth of it or a second, whichever is more. Where delays spread
    over several bins, by a small part of that.
    """
    counts = np.maximum(counts, 0)
    cumulative = np.cumsum(counts)
    n = int(cumulative[-1])
    if n <= 0:
        return {}
    out = {"label_delay_mean_s": total_s / n}
    for name, quantile in _QUANTILES.items():
        rank = quantile * n
        position = int(np.searchsorted(cumulative, rank, side="left"))
        low, high = delay_edge(position), delay_edge(position + 1)
        inside = (rank - (int(cumulative[position]) - int(counts[position]))) / int(counts[position])
        out[name] = min(low + (high - low) * inside, float(max(longest_s, low)))
    return out
