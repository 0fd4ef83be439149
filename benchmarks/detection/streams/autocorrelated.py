"""Days resemble the days before: the error rate wanders (AR(1) in the logit), then jumps by eight points."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.detection.streams.base import ERROR, HORIZON_PANES, REFERENCE_PANES, Change, Stream, draw, onset

MEMORY = 0.8
SCATTER = 0.15
"""Standard deviation of the wandering logit: the error rate stays within about 0.11 to 0.19."""
JUMP = 0.08
TWIN_PANES = 180


def stream(seed: int, rows: int) -> Stream:
    """With the jump."""
    start = onset(seed)
    errors = _wandering(seed, REFERENCE_PANES + start + HORIZON_PANES)
    live = errors[REFERENCE_PANES:]
    live[start:] = [error + JUMP for error in live[start:]]
    return draw(
        "autocorrelated", seed, rows, live, reference=errors[:REFERENCE_PANES], changes=[Change(start, len(live))]
    )


def twin(seed: int, rows: int) -> Stream:
    """Without."""
    errors = _wandering(seed, REFERENCE_PANES + TWIN_PANES)
    return draw("autocorrelated", seed, rows, errors[REFERENCE_PANES:], reference=errors[:REFERENCE_PANES])


def _wandering(seed: int, panes: int) -> list[float]:
    steps = np.random.default_rng([seed, 11]).normal(size=panes)
    level = math.log(ERROR / (1 - ERROR))
    state = steps[0]
    out = []
    for step in steps:
        state = MEMORY * state + math.sqrt(1 - MEMORY**2) * step
        out.append(1 / (1 + math.exp(-(level + SCATTER * state))))
    return out
