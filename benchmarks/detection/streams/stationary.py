"""Nothing changes: every alarm is false."""

from __future__ import annotations

from benchmarks.detection.streams.base import ERROR, Stream, draw

PANES = 180


def stream(seed: int, rows: int) -> Stream:
    """180 panes at the error rate of the reference."""
    return draw("stationary", seed, rows, [ERROR] * PANES)
