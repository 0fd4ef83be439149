"""Levels of metrics on reference rows: value, spread between panes, scale per event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from schemas.metrics import lower_is_better, split
from schemas.reference import MetricReference
from streams.columns import Floats, Indexes, Mask, Values
from streams.metrics.batch import label_counters
from streams.metrics.catalogue import judged_names
from streams.metrics.compute import compute
from streams.metrics.view import Dense
from streams.panes import PanePlan

JACKKNIFE_GROUPS: Final = 50
MINIMUM_PANE: Final = 30
MOST_PANES: Final = 1000
PRIOR_PANES: Final = 3
"""Weight, in panes, of the spread that is assumed where the reference cannot tell."""
PRIOR_SPREAD: Final = 0.02
UNBOUNDED: Final = frozenset({"log_loss", "mae", "rmse", "mape", "cost", "quantile_loss[Q]"})


class Outcomes(NamedTuple):
    """Rows of a reference: what was true and what was predicted, when."""

    truth: Values
    guesses: Values
    score: Floats | None
    probabilities: Floats | None
    times: Indexes


class Levels:
    """Metric levels of chosen rows, with spread between panes and scale per event."""

    def __init__(self, plan: PanePlan, outcomes: Outcomes) -> None:
        self.plan = plan
        self.rows = outcomes

    def _counters(self, rows: Mask, groups: Indexes, count: int) -> Dense:
        return label_counters(
            self.plan,
            self.rows.truth[rows],
            self.rows.guesses[rows],
            None if self.rows.score is None else self.rows.score[rows],
            probabilities=None if self.rows.probabilities is None else self.rows.probabilities[rows],
            groups=groups,
            group_count=count,
        )

    def of(self, rows: Mask, *, least: int = 1) -> dict[str, MetricReference]:
        """Levels by metric name; those that the rows do not define are left out."""
        n = int(rows.sum())
        if n < least:
            return {}
        names = judged_names(self.plan.spec)
        # Seeded: compiling twice gives the same reference.
        shuffled = np.random.default_rng(0).permutation(n) % JACKKNIFE_GROUPS
        by_group = self._counters(rows, shuffled.astype(np.int64), JACKKNIFE_GROUPS)
        total = by_group.sum(axis=0)
        whole = compute(self.plan, total, names)
        parts = [compute(self.plan, total - group, names) for group in by_group]
        pane = self.rows.times[rows] // self.plan.pane_ms
        _, inverse = np.unique(pane, return_inverse=True)
        inverse = inverse.reshape(-1)
        first = max(int(inverse.max()) + 1 - MOST_PANES, 0)  # the newest ones, where there are very many
        recent = rows.copy()
        recent[rows] = inverse >= first
        by_pane = self._counters(
            recent, (inverse[inverse >= first] - first).astype(np.int64), int(inverse.max()) + 1 - first
        )
        sizes = by_pane[:, self.plan.slots["labelled"].start]
        panes = [
            (compute(self.plan, row, names), int(size))
            for row, size in zip(by_pane, sizes, strict=True)
            if size >= MINIMUM_PANE
        ]
        out = {}
        for name in names:
            value = whole.get(name)
            left_out = np.array([v for part in parts if (v := part.get(name)) is not None])
            if value is None or len(left_out) < 2:
                continue
            scale = math.sqrt(n * (len(left_out) - 1) * float(np.var(left_out)))
            seen = [(v, size) for of_pane, size in panes if (v := of_pane.get(name)) is not None]
            out[name] = _level(name, value, scale, seen, n)
        return out


def _level(name: str, value: float, scale: float, panes: Sequence[tuple[float, int]], n: int) -> MetricReference:
    """Level and spread; the spread is drawn towards a modest prior where few panes speak.

    References
    ----------
    DerSimonian and Laird (1986), Meta-analysis in clinical trials: variance between panes beyond sampling.
    """
    unbounded = split(name)[0] in UNBOUNDED
    prior = PRIOR_SPREAD * abs(value) * 2 if unbounded else PRIOR_SPREAD * (0.5 if lower_is_better(name) else 1.0)
    if name == "bias":
        prior = PRIOR_SPREAD * scale
    k = len(panes)
    pane_value = value
    between = 0.0
    if k >= 2:
        values = np.array([v for v, _ in panes])
        sizes = np.array([size for _, size in panes], dtype=np.float64)
        pane_value = float((values * sizes).sum() / sizes.sum())
        between = max(float(values.var(ddof=1)) - float((scale**2 / sizes).mean()), 0.0)
    freedom = max(k - 1, 0)
    spread = math.sqrt((PRIOR_PANES * prior**2 + freedom * between) / (PRIOR_PANES + freedom))
    return MetricReference(value=value, spread=spread, scale=scale, pane_value=pane_value, panes=k, n=n)
