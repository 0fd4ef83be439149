"""What the week does to levels: how far each weekday usually lies from the whole week.

A model whose traffic or quality differs at weekends is not worse every Saturday; and where the difference is known, it
no longer counts as scatter that hides a real loss.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from schemas.reference import MetricReference

Floats = NDArray[np.float64]

DAY_MS: Final = 86_400_000
DAYS: Final = 7
NAMES: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEAST_SPAN_MS: Final = 28 * DAY_MS
"""Shortest reference that knows a week: four of each day."""
LEAST_PANES: Final = 3
"""Of every weekday."""
LEAST_P: Final = 0.01
"""Weekdays differ where chance says so less often than this."""
_THURSDAY: Final = 3
"""The day that the epoch began with."""


def weekday(at_ms: int) -> int:
    """Weekday in UTC, Monday 0.

    Examples
    --------
    >>> weekday(0), weekday(4 * 86_400_000 - 1), weekday(4 * 86_400_000)
    (3, 6, 0)
    """
    return (at_ms // DAY_MS + _THURSDAY) % DAYS


def weekday_weights(start_ms: int, end_ms: int) -> tuple[float, ...]:
    """Part of every weekday in a span of time; sums to 1.

    Examples
    --------
    >>> friday = 86_400_000
    >>> weekday_weights(friday, friday + 2 * 86_400_000)
    (0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0)
    """
    out = [0.0] * DAYS
    at = start_ms
    while at < end_ms:
        until = min((at // DAY_MS + 1) * DAY_MS, end_ms)
        out[weekday(at)] += (until - at) / (end_ms - start_ms)
        at = until
    return tuple(out)


def weekday_name(start_ms: int, end_ms: int) -> str:
    """The weekdays a window lies in, in words.

    Examples
    --------
    >>> weekday_name(0, 86_400_000), weekday_name(0, 2 * 86_400_000)
    ('Thursday', 'Thursday to Friday')
    """
    first, last = NAMES[weekday(start_ms)], NAMES[weekday(end_ms - 1)]
    return first if first == last else f"{first} to {last}"


def weekly(starts: NDArray[np.int64], values: Floats, sizes: Floats) -> list[float]:
    """How far a metric's panes lie from the whole week by weekday; empty where weekdays do not differ or nobody knows.

    Parameters
    ----------
    starts : array of int, shape (panes,)
        Starts of the panes in milliseconds; each lies within one day.
    values, sizes : array, shape (panes,)
        Metric and labelled events.

    Notes
    -----
    Analysis of variance by weekday. What is found is drawn towards nothing by what chance does to means of so few, and
    over a usual week's events it adds up to nothing.

    References
    ----------
    Efron and Morris (1975), Data analysis using Stein's estimator and its generalizations.
    """
    if len(starts) == 0 or int(starts.max()) - int(starts.min()) < LEAST_SPAN_MS - DAY_MS:
        return []
    day = (starts // DAY_MS + _THURSDAY) % DAYS
    counts = np.bincount(day, minlength=DAYS)
    if counts.min() < LEAST_PANES:
        return []
    means = np.bincount(day, values, DAYS) / counts
    rest = len(values) - DAYS
    between = float((counts * (means - values.mean()) ** 2).sum()) / (DAYS - 1)
    within = float(((values - means[day]) ** 2).sum()) / rest
    if within <= 0 or float(special.fdtrc(DAYS - 1, rest, between / within)) > LEAST_P:
        return []
    own = (between - within) / (len(values) / DAYS)
    effects = (means - values.mean()) * own / (own + within / counts)
    events = np.bincount(day, sizes, DAYS)
    centred = effects - (effects * events).sum() / events.sum()
    return [float(effect) for effect in centred]


def shift(level: MetricReference, start_ms: int, end_ms: int) -> float:
    """What the weekdays of a window do to a metric; whole weeks do nothing."""
    if not level.week:
        return 0.0
    rest = (end_ms - start_ms) % (DAYS * DAY_MS)
    if rest == 0:
        return 0.0
    weights = weekday_weights(start_ms, start_ms + rest)
    return sum(w * effect for w, effect in zip(weights, level.week, strict=True)) * rest / (end_ms - start_ms)


def shifted(level: MetricReference, start_ms: int, end_ms: int) -> MetricReference:
    """A level as it usually is on the weekdays of a window."""
    by = shift(level, start_ms, end_ms)
    if by == 0.0:
        return level
    pane_value = None if level.pane_value is None else level.pane_value + by
    return msgspec.structs.replace(level, value=level.value + by, pane_value=pane_value)


def on_weekday(level: MetricReference, start_ms: int, end_ms: int) -> MetricReference:
    """`shifted`, with what a weekday knows less than a week: a seventh of the events, and four of its days at least."""
    moved = shifted(level, start_ms, end_ms)
    if moved is level:
        return level
    return msgspec.structs.replace(moved, n=max(level.n // DAYS, 1), spread=level.spread * (1 + DAYS / 28) ** 0.5)
