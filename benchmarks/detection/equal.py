"""Settings at which contenders raise false alarms equally often: found on streams in which nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.detection.contenders.base import Contender
from benchmarks.detection.scoring import Score, score
from benchmarks.detection.streams.base import Stream

STEPS = 7


@dataclass(frozen=True)
class Calibrated:
    """A setting and the false alarms it raised on the streams it was found on."""

    setting: float
    found: Score


def calibrate(contender: Contender, twins: Sequence[Stream], rate: float, steps: int = STEPS) -> Calibrated:
    """The most eager setting with at most `rate` false alarms a pane on `twins`.

    Notes
    -----
    Bisection of the knob's range, even in its logarithm. Where even the most eager setting stays below `rate`, that one
    it is; where even the shyest is above, the shyest.
    """

    def at(part: float) -> Calibrated:
        setting = contender.shy ** (1 - part) * contender.eager**part
        return Calibrated(setting, score(twins, contender.alarms(twins, setting)))

    best = at(1.0)
    if best.found.rate <= rate:
        return best
    low, high = 0.0, 1.0
    best = at(0.0)
    for _ in range(steps if best.found.rate <= rate else 0):
        middle = (low + high) / 2
        tried = at(middle)
        if tried.found.rate <= rate:
            low, best = middle, tried
        else:
            high = middle
    return best
