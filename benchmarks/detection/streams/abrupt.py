"""The error rate jumps by five points and stays there."""

from __future__ import annotations

from benchmarks.detection.streams.base import ERROR, HORIZON_PANES, Change, Stream, draw, onset

JUMP = 0.05


def stream(seed: int, rows: int) -> Stream:
    """From one pane to the next."""
    start = onset(seed)
    errors = [ERROR] * start + [ERROR + JUMP] * HORIZON_PANES
    return draw("abrupt", seed, rows, errors, changes=[Change(start, len(errors))])
