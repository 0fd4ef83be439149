"""The error rate climbs by eight points over thirty panes."""

from __future__ import annotations

from benchmarks.detection.streams.base import ERROR, HORIZON_PANES, Change, Stream, draw, onset

CLIMB = 0.08
PANES = 30


def stream(seed: int, rows: int) -> Stream:
    """In a straight line, then level."""
    start = onset(seed)
    climb = [ERROR + CLIMB * min((pane + 1) / PANES, 1.0) for pane in range(HORIZON_PANES)]
    errors = [ERROR] * start + climb
    return draw("gradual", seed, rows, errors, changes=[Change(start, len(errors))])
