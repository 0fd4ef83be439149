"""Levels of metrics on reference rows: value, spread between panes, scale per event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from schemas.metrics import lower_is_better, split
from schemas.reference import MetricReference
from streams.columns import Floats, Indexes, Mask, Values
from streams.metrics.batch import label_counters
from streams.metrics.catalogue import judged_names
from streams.metrics.compute import compute
from streams.metrics.view import Dense
from streams.panes import PanePlan
from streams.weekdays import DAY_MS, weekday, weekly

JACKKNIFE_GROUPS: Final = 50
MINIMUM_PANE: Final = 30
MOST_PANES: Final = 1000
PRIOR_PANES: Final = 3
"""Weight, in panes, of the spread that is assumed where the reference cannot tell."""
PRIOR_SPREAD: Final = 0.02
PRIOR_MEMORY: Final = 1 / 3
"""Correlation between neighbouring panes where nothing tells it."""
MEMORY_PANES: Final = 8
"""Its weight, in panes."""
MOST_MEMORY: Final = 0.9
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
        kept, inverse = np.unique(pane, return_inverse=True)
        inverse = inverse.reshape(-1)
        first = max(int(inverse.max()) + 1 - MOST_PANES, 0)  # the newest ones, where there are very many
        recent = rows.copy()
        recent[rows] = inverse >= first
        by_pane = self._counters(
            recent, (inverse[inverse >= first] - first).astype(np.int64), int(inverse.max()) + 1 - first
        )
        sizes = by_pane[:, self.plan.slots["labelled"].start]
        panes = [
            (compute(self.plan, row, names), int(size), int(at) * self.plan.pane_ms)
            for row, size, at in zip(by_pane, sizes, kept[first:], strict=True)
            if size >= MINIMUM_PANE
        ]
        out = {}
        for name in names:
            value = whole.get(name)
            left_out = np.array([v for part in parts if (v := part.get(name)) is not None])
            if value is None or len(left_out) < 2:
                continue
            scale = math.sqrt(n * (len(left_out) - 1) * float(np.var(left_out)))
            seen = [(v, size, at) for of_pane, size, at in panes if (v := of_pane.get(name)) is not None]
            out[name] = _level(name, value, scale, seen, n, weekdays=self.plan.pane_ms <= DAY_MS)
        return out


def stretch(memory: float, panes: float) -> float:
    """By how much correlation between neighbours raises the variance of a mean over `panes`.

    Parameters
    ----------
    memory : float
        Correlation of neighbours (first-order autoregression), 0 ≤ memory < 1.

    Examples
    --------
    >>> stretch(0.0, 7), stretch(0.5, 1), round(stretch(0.5, 1000), 2)
    (1.0, 1.0, 3.0)
    """
    rest = 1.0 - memory
    return float((1 + memory) / rest - 2 * memory * (1 - memory**panes) / (panes * rest * rest))


class Between(NamedTuple):
    """How panes differ beyond chance: mean, standard deviation, correlation of neighbours, number of panes."""

    mean: float
    spread: float
    memory: float
    panes: int


def between_panes(values: Floats, sizes: Floats, scale: float, prior: float, *, fitted: int = 0) -> Between:
    """What neighbouring panes tell of their spread, drawn towards a prior where few speak.

    Parameters
    ----------
    values, sizes : array, shape (panes,)
        Metric and labelled events by pane, in order.
    scale : float
        Standard deviation of one event's contribution.
    prior : float
        Spread that is assumed of panes that cannot tell.
    fitted : int
        Numbers that were fitted to the values and taken from them (weekdays), besides the mean.

    Notes
    -----
    A mean over few correlated panes follows them: what is left shows too little spread and too little correlation, and
    is raised by what theory says of a first-order autoregression.

    References
    ----------
    DerSimonian and Laird (1986), Meta-analysis in clinical trials: variance between panes beyond sampling.
    """
    k = len(values)
    if k < 2:
        return Between(float(values.mean()) if k else math.nan, prior, PRIOR_MEMORY, k)
    mean = float((values * sizes).sum() / sizes.sum())
    chance = float((scale**2 / sizes).mean())
    freedom = max(k - 1 - fitted, 1)
    seen = _beyond(float(values.var(ddof=k - freedom)), chance, freedom, prior)
    memory = PRIOR_MEMORY
    if seen > 0 and k > 2:
        off = values - mean
        beside = float((off[1:] * off[:-1]).sum()) / (k - 1) + (stretch(PRIOR_MEMORY, k) * seen + chance) / k
        told = k * (seen / (seen + chance)) ** 2
        found = min(max(beside / seen, 0.0), MOST_MEMORY)
        memory = (told * found + MEMORY_PANES * PRIOR_MEMORY) / (told + MEMORY_PANES)
    seen /= max(1.0 - (stretch(memory, k) - 1.0) / (k - 1), 0.25)
    spread = math.sqrt((PRIOR_PANES * prior**2 + freedom * seen) / (PRIOR_PANES + freedom))
    return Between(mean, spread, memory, k)


def _beyond(total: float, chance: float, freedom: int, prior: float) -> float:
    """Variance between panes beyond chance.

    Notes
    -----
    Few panes that scatter no more than chance does are no evidence that there is nothing else: the estimate is drawn up
    to the mean of the positive part of what it may be (a normal distribution cut at zero), to the prior at most.
    """
    found = total - chance
    error = total * math.sqrt(2 / freedom)
    if error <= 0:
        return max(found, 0.0)
    z = found / error
    # Far below zero the mean of the positive part goes with 1 / z.
    mean = found + error * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / float(special.ndtr(z)) if z > -8 else 0.0
    return max(found, min(mean, prior**2))


def prior_spread(name: str, value: float, scale: float) -> float:
    """The spread between panes that is assumed of a metric before any pane spoke."""
    if name == "bias":
        return PRIOR_SPREAD * scale
    if split(name)[0] in UNBOUNDED:
        return PRIOR_SPREAD * abs(value) * 2
    return PRIOR_SPREAD * (0.5 if lower_is_better(name) else 1.0)


def _level(
    name: str, value: float, scale: float, panes: Sequence[tuple[float, int, int]], n: int, *, weekdays: bool
) -> MetricReference:
    """Level and spread of a metric; what weekdays do to it is no spread."""
    values = np.array([v for v, _, _ in panes])
    sizes = np.array([size for _, size, _ in panes], dtype=np.float64)
    starts = np.array([at for _, _, at in panes], dtype=np.int64)
    week = weekly(starts, values, sizes) if weekdays else []
    if week:
        values = values - np.array(week)[[weekday(at) for at in starts.tolist()]]
    told = between_panes(values, sizes, scale, prior_spread(name, value, scale), fitted=6 if week else 0)
    mean = told.mean if told.panes >= 2 else value
    return MetricReference(
        value=value, spread=told.spread, scale=scale, pane_value=mean, panes=told.panes, n=n, memory=told.memory,
        week=week,
    )  # fmt: skip
