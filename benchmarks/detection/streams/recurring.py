"""The same trouble comes back: three stretches of ten bad panes with twenty good ones between."""

from __future__ import annotations

from benchmarks.detection.streams.base import ERROR, Change, Stream, draw, onset

JUMP = 0.07
BAD = 10
GOOD = 20


def stream(seed: int, rows: int) -> Stream:
    """Good, bad, good, bad, good, bad, good."""
    errors = [ERROR] * onset(seed)
    changes = []
    for _ in range(3):
        changes.append(Change(len(errors), len(errors) + BAD))
        errors += [ERROR + JUMP] * BAD + [ERROR] * GOOD
    return draw("recurring", seed, rows, errors, changes=changes)
