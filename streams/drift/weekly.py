"""Distributions by weekday, learnt from a reference of four weeks or more: for subjects whose days differ by that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from schemas.reference import Weekdays
from streams.columns import Indexes
from streams.drift.distances import psi_noise, shares
from streams.drift.scatter import (
    MINIMUM_WINDOW,
    MOST_PANES,
    PRIOR_DOF_WINDOWS,
    PRIOR_EXCESS,
    PRIOR_WINDOWS,
    UNSURE,
    Coded,
    drift_key,
)
from streams.panes import PanePlan
from streams.seasons import LEAST_ROWS, season_psi
from streams.weekdays import DAY_MS, DAYS, LEAST_PANES, LEAST_SPAN_MS, weekday_weights

EXPLAINED: Final = 0.5
"""Part of what windows differ by that weekdays have to explain, at least."""


class WeekLearner:
    """Takes the subjects of a reference in, one by one.

    Parameters
    ----------
    plan : PanePlan
    times : array of int, shape (n,)
        Event times of the reference, in milliseconds.
    """

    def __init__(self, plan: PanePlan, times: Indexes) -> None:
        self._plan = plan
        self._times = times
        lengths = {name: window.length_ms for name, window in plan.spec.time_windows.items()}
        self._lengths = {name: ms for name, ms in (lengths or {"pane": plan.pane_ms}).items() if ms % (DAYS * DAY_MS)}
        long_enough = len(times) > 0 and int(times.max()) - int(times.min()) >= LEAST_SPAN_MS - DAY_MS
        self._asked = long_enough and plan.pane_ms <= DAY_MS and bool(self._lengths)
        self._day = (times // DAY_MS + 3) % DAYS if self._asked else times
        self.days: dict[str, list[list[int]]] = {}
        self.drift: dict[str, float] = {}

    def take(self, coded: Coded, usual: Mapping[str, float]) -> None:
        """Learn the weekdays of a subject, where they explain how its days differ.

        Parameters
        ----------
        usual : mapping of str to float
            Scatter of its windows around the whole (`streams.drift.scatter.own_windows`).
        """
        if not self._asked:
            return
        rows = coded.rows if coded.missing is None else coded.rows & ~coded.missing
        # Scores and labels may be known of fewer days than the reference has: one Saturday is no Saturdays.
        dates = np.unique(self._times[rows] // DAY_MS)
        if np.bincount((dates + 3) % DAYS, minlength=DAYS).min() < LEAST_PANES:
            return
        cells = self._day[rows] * coded.size + coded.codes[rows]
        days = np.bincount(cells, minlength=DAYS * coded.size).reshape(DAYS, coded.size)
        if (days.sum(axis=1) < LEAST_ROWS).any():
            return
        found = {name: self._around(coded, rows, days, length) for name, length in self._lengths.items()}
        first = next(iter(self._lengths))
        whole = usual.get(drift_key(coded.subject, first, "excess"), 0.0)
        told = found[first]
        if told is None or whole <= PRIOR_EXCESS or told[0] > EXPLAINED * whole:
            return
        self.days[coded.subject] = days.tolist()
        for name, figures in found.items():
            if figures is not None:
                self.drift[drift_key(coded.subject, name, "excess")] = figures[0]
                self.drift[drift_key(coded.subject, name, "dof")] = figures[1]

    def _around(self, coded: Coded, rows: np.ndarray, days: np.ndarray, length_ms: int) -> tuple[float, float] | None:
        """Mean PSI of the reference's own windows against their weekdays beyond chance, and its degrees of freedom.

        Notes
        -----
        A window is part of its weekdays: its deviation from their other weeks is larger by 1 / (1 − share).
        """
        pane_ms = self._plan.pane_ms
        pane = self._times // pane_ms
        start = max(int(pane.min()), int(pane.max()) - MOST_PANES + 1)
        count = int(pane.max()) - start + 1
        inside = rows & (pane >= start)
        counts = np.bincount((pane[inside] - start) * coded.size + coded.codes[inside], minlength=count * coded.size)
        sums = np.concatenate(
            [np.zeros((1, coded.size), dtype=np.int64), np.cumsum(counts.reshape(count, coded.size), axis=0)]
        )
        span = max(min(length_ms // pane_ms, count), 1)
        rolled = sums[span:] - sums[:-span]
        used = np.flatnonzero(rolled.sum(axis=1) >= MINIMUM_WINDOW)
        if len(used) < DAYS:
            return None
        starts = ((start + used) * pane_ms).tolist()
        weights = np.array([weekday_weights(at, at + span * pane_ms) for at in starts])
        n = rolled[used].sum(axis=1).astype(np.float64)
        behind = 1.0 / (weights**2 / days.sum(axis=1)).sum(axis=1)
        own = np.minimum(n / behind, 0.75)
        psi = season_psi(shares(rolled[used]), weights @ shares(days)) / (1.0 - own) ** 2
        bins = max(int((days.sum(axis=0) > 0).sum()), 2)
        noise = np.array([psi_noise(bins, each, m) for each, m in zip(n, behind, strict=True)])
        seen = max(float((psi - noise).mean()), 0.0)
        independent = len(used) / span
        weight = independent / (independent + PRIOR_WINDOWS)
        excess = weight * seen * (1 + UNSURE / math.sqrt(independent)) + (1 - weight) * max(PRIOR_EXCESS, seen)
        variance = float(psi.var(ddof=1)) - float((2 * noise**2 / (bins - 1)).mean())
        dof = 2 * seen * seen / variance if variance > 0 else bins - 1.0
        dof = (PRIOR_DOF_WINDOWS + independent * min(dof, bins - 1.0)) / (PRIOR_DOF_WINDOWS + independent)
        return excess, float(min(max(dof, 1.0), bins - 1.0))

    def weekdays(self) -> Weekdays | None:
        """What was learnt; None: nothing."""
        return Weekdays(days=self.days, drift=self.drift) if self.days else None
