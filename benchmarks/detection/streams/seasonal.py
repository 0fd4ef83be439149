"""The calendar alone: weekends are three points worse, and the year moves a feature that the model uses.

The reference is a whole year, so both are known; nothing changes in the year after it.
"""

from __future__ import annotations

import math

from benchmarks.detection.streams.base import ERROR, Stream, draw

YEAR = 365
WEEKEND = 0.03
SWING = 1.5
"""Amplitude of the yearly wave, in standard deviations within a pane."""


def stream(seed: int, rows: int) -> Stream:
    """Two years."""
    errors = [ERROR + (WEEKEND if day % 7 >= 5 else 0.0) for day in range(2 * YEAR)]
    waves = [SWING * math.sin(2 * math.pi * day / YEAR) for day in range(2 * YEAR)]
    return draw("seasonal", seed, rows, errors[YEAR:], reference=errors[:YEAR], temperatures=waves)
