"""Metrics of real-valued predictions from standardised fixed-point sums."""

from __future__ import annotations

import math

from streams.panes import COARSE, FINE


def mae(error_abs: int, n: int, scale: float) -> float | None:
    """Mean absolute error in the label's unit."""
    return error_abs / FINE / n * scale if n else None


def rmse(error_square: int, n: int, scale: float) -> float | None:
    """Root of the mean squared error in the label's unit."""
    return math.sqrt(max(error_square, 0) / COARSE / n) * scale if n else None


def bias(error: int, n: int, scale: float) -> float | None:
    """Mean of prediction − label."""
    return error / FINE / n * scale if n else None


def mape(ape: int, n: int) -> float | None:
    """Mean absolute error as a ratio of the label, over labels other than 0."""
    return ape / FINE / n if n else None


def r2(error_square: int, label_total: int, label_square: int, n: int, scale: float) -> float | None:
    """Share of the label's variance that is explained.

    Parameters
    ----------
    scale : float
        Error unit / label unit.
    """
    if n < 2:
        return None
    variance = label_square / COARSE / n - (label_total / FINE / n) ** 2
    if variance <= 1e-9:
        return None
    return 1.0 - error_square / COARSE / n * scale * scale / variance
