"""Metrics of probabilities from fixed-point sums and calibration bins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.panes import FINE

Counts = NDArray[np.int64]


def mean_fixed(total: int, n: int) -> float | None:
    """Mean of a fixed-point sum; None of nothing."""
    return total / FINE / n if n > 0 else None


def calibration_error(n: Counts, hits: Counts, total: Counts) -> float | None:
    """Expected calibration error: the mean gap between promised and actual share, by bin of the probability.

    Parameters
    ----------
    n, hits, total : array of int
        By bin: events, positives, fixed-point sum of probabilities.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning.
    """
    events = int(n.sum())
    return float(np.abs(hits - total / FINE).sum() / events) if events > 0 else None


def top_k_accuracy(ranks: Counts, k: int, n: int) -> float | None:
    """Share of the events whose truth is among the `k` most probable classes.

    Parameters
    ----------
    ranks : array of int
        Events by how many classes come before the truth; of equally probable ones the later class does (as in
        scikit-learn).
    k : int
        From 1 on.
    n : int
        Events with probabilities; a truth that the model does not know is in no rank.
    """
    return int(ranks[:k].sum()) / n if n > 0 else None


def calibration_noise(n: Counts, total: Counts) -> float:
    """Calibration error that a perfectly calibrated model shows on so many events by chance alone."""
    events = int(n.sum())
    if events <= 0:
        return 0.0
    promised = np.divide(total / FINE, n, out=np.zeros(len(n)), where=n > 0)
    spread = np.sqrt(np.clip(promised * (1 - promised), 0.0, None) * n)
    return float(spread.sum() * math.sqrt(2 / math.pi) / events)
