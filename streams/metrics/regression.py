"""Metrics of real-valued predictions from fixed-point sums of their errors."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from streams.panes import FINE

LEAST_LABEL_SPREAD: Final = 1 << 10
"""Labels that differ by less (in their fixed point: a thousandth of the reference's standard deviation) have no
variance worth explaining."""


class Errors(NamedTuple):
    """Sums over the events of prediction − label, in fixed point.

    Parameters
    ----------
    n : int
        Events.
    total, absolute, square : int
        Sums of the errors, of their absolute values and of their squares.
    unit : float
        What 1 is in the label's unit.
    """

    n: int
    total: int
    absolute: int
    square: int
    unit: float


def mae(errors: Errors) -> float | None:
    """Mean absolute error in the label's unit."""
    return errors.absolute / errors.n * errors.unit if errors.n > 0 else None


def rmse(errors: Errors) -> float | None:
    """Root of the mean squared error in the label's unit."""
    return math.sqrt(max(errors.square, 0) / errors.n) * errors.unit if errors.n > 0 else None


def bias(errors: Errors) -> float | None:
    """Mean of prediction − label."""
    return errors.total / errors.n * errors.unit if errors.n > 0 else None


def mape(ape: int, n: int) -> float | None:
    """Mean absolute error as a ratio of the label, over labels other than 0."""
    return ape / FINE / n if n > 0 else None


def quantile_loss(errors: Errors, quantile: float) -> float | None:
    """Mean pinball loss of predictions of a quantile.

    Notes
    -----
    Needs no sums of its own: what predictions fell short by, and what they were too high by, are half the sum and half
    the difference of absolute and plain errors. So any quantile can be asked for at any time.

    Examples
    --------
    >>> quantile_loss(Errors(n=2, total=-2, absolute=4, square=10, unit=1.0), 0.9)  # 3 too low, 1 too high
    1.4
    """
    if errors.n <= 0:
        return None
    short, over = (errors.absolute - errors.total) / 2, (errors.absolute + errors.total) / 2
    return (quantile * short + (1.0 - quantile) * over) / errors.n * errors.unit


def r2(errors: Errors, label_total: int, label_square: int, *, unit: float) -> float | None:
    """Share of the labels' variance that is explained.

    Parameters
    ----------
    label_total, label_square : int
        Sums of the fixed-point labels and of their squares.
    unit : float
        What 1 of them is in the label's unit.

    Returns
    -------
    float or None
        None of fewer than two events, and where the labels hardly differ.

    Notes
    -----
    Where labels moved far from the reference, the variance is a difference of large numbers: integers keep it exact.
    """
    n = errors.n
    scatter = n * label_square - label_total * label_total
    if n < 2 or scatter < n * n * LEAST_LABEL_SPREAD**2:
        return None
    return 1.0 - n * errors.square / scatter * (errors.unit / unit) ** 2
