"""False alarms, delay and misses of alarms in panes; how sure the figures are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.detection.contenders.base import Alarms
from benchmarks.detection.streams.base import HORIZON_PANES, Stream

COOL_DOWN = 7
"""Alarms with fewer panes than this between them are one: the same for everybody."""
LONGEST = 30
"""An alarm that goes on longer counts again: who always cries must not pass for one who cried once."""
CONFIDENCE = 0.95
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Score:
    """What one contender did on streams of one kind.

    Parameters
    ----------
    false : int
        Alarms that began where nothing was wrong.
    good_panes : int
        Panes in which nothing was wrong.
    delays : list of float
        By change: panes of the change that had to close, the one that told included; infinite: missed; NaN: it began
        while a false alarm was on, and counts neither as found nor as missed.
    """

    false: int
    good_panes: int
    delays: list[float]

    @property
    def rate(self) -> float:
        """False alarms a pane."""
        return self.false / self.good_panes if self.good_panes else 0.0

    @property
    def rate_interval(self) -> tuple[float, float]:
        """Exact interval of the rate, false alarms taken as Poisson.

        References
        ----------
        Garwood (1936), Fiducial limits for the Poisson distribution.
        """
        tail = (1 - CONFIDENCE) / 2
        low = float(stats.gamma.ppf(tail, self.false)) if self.false else 0.0
        high = float(stats.gamma.ppf(1 - tail, self.false + 1))
        return low / max(self.good_panes, 1), high / max(self.good_panes, 1)

    @property
    def missed(self) -> int:
        """Changes that nobody was told of while they lasted (or within the horizon)."""
        return sum(math.isinf(delay) for delay in self.delays)

    @property
    def excluded(self) -> int:
        """Changes that began within a false alarm."""
        return sum(math.isnan(delay) for delay in self.delays)

    def cut(self) -> list[float]:
        """Delays with the horizon for what was missed: a mean of found ones alone would reward missing."""
        return [min(delay, float(HORIZON_PANES)) for delay in self.delays if not math.isnan(delay)]


def score(streams: Sequence[Stream], alarms: Sequence[Alarms]) -> Score:
    """Compare alarms with the truth."""
    false, good = 0, 0
    delays: list[float] = []
    for stream, own in zip(streams, alarms, strict=True):
        wrong = np.zeros(len(stream.live), dtype=bool)
        for change in stream.changes:
            # Windows still hold the change for a while after it: neither good nor wrong.
            wrong[change.start : change.end + COOL_DOWN] = True
        good += int((~wrong).sum())
        false += sum(not wrong[start] for start in episodes(own))
        on = set(own)
        for change in stream.changes:
            if on & {change.start - 1, change.start - 2}:
                delays.append(math.nan)
                continue
            end = min(change.end, change.start + HORIZON_PANES)
            delays.append(next((pane - change.start + 1 for pane in own if change.start <= pane < end), math.inf))
    return Score(false, good, delays)


def episodes(alarms: Alarms) -> list[int]:
    """First panes of the alarms, those closely after one another taken as one."""
    out: list[int] = []
    last = -math.inf
    for pane in alarms:
        if pane - last > COOL_DOWN or pane - out[-1] >= LONGEST:
            out.append(pane)
        last = pane
    return out


def interval(values: Sequence[float], of: Callable[..., object] = np.median, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a statistic (percentiles).

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap.
    """
    if not values:
        return (math.nan, math.nan)
    rng = np.random.default_rng(seed)
    array = np.asarray(values, dtype=np.float64)
    drawn = np.asarray(of(array[rng.integers(0, len(array), (_RESAMPLES, len(array)))], axis=1))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
