"""A model of the simulated fleet: its reference rows, and its live days as counters of panes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from schemas.reference import NumericReference
from schemas.specification import Specification, parse
from streams.metrics.batch import label_counters
from streams.panes import COARSE, TAIL, PanePlan
from streams.reference import compile_reference

DAY_MS: Final = 86_400_000
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """What the models of a fleet live in.

    Parameters
    ----------
    rows : int
        Predictions a day, each labelled within the day.
    features : int
        Numeric ones, standard normal; the model looks at all of them alike.
    wobble : float
        Standard deviation of a random shift of the logit between score and truth from day to day.
    memory : float
        Autocorrelation of that shift at one day (first order), 0–1.
    weather : float
        Standard deviation, in a feature's own, of a random shift of every feature from day to day, with that memory.
    tails : float
        Degrees of freedom of the daily shifts (Student's t, scaled to the same deviation); 0: normal.
    """

    rows: int = 100
    features: int = 20
    wobble: float = 0.0
    memory: float = 0.0
    weather: float = 0.0
    tails: float = 0.0


def specification(features: int, *, budget: str, windows: tuple[str, ...] = ("1d", "7d")) -> Specification:
    """The specification all models of a fleet share."""
    columns = "\n".join(f'x{i} = "numeric"' for i in range(features))
    names = ", ".join(f'"{name}"' for name in windows)
    return parse(
        f"""
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[features]
{columns}
[metrics]
primary = "accuracy"
watch = ["brier", "roc_auc"]
windows = [{names}]
[alarms]
budget = "{budget}"
"""
    )


def _daily(world: World, days: int, rng: np.random.Generator, columns: int = 1) -> Floats:
    """Shifts of unit deviation by day, with the world's memory and tails."""
    shocks = (
        rng.standard_t(world.tails, (days, columns)) / math.sqrt(world.tails / (world.tails - 2))
        if world.tails
        else rng.normal(size=(days, columns))
    )
    out = np.empty_like(shocks)
    keep = world.memory
    for day in range(days):
        out[day] = shocks[day] if day == 0 else keep * out[day - 1] + math.sqrt(1 - keep * keep) * shocks[day]
    return out


class Days:
    """The rows of some days: scores and labels by day; the daily shifts of the features."""

    def __init__(self, world: World, days: int, rng: np.random.Generator) -> None:
        shape = (days, world.rows)
        logit = rng.normal(-0.3, 2.0, shape)
        self.score = special.expit(logit)
        shift = world.wobble * _daily(world, days, rng)
        self.label = (rng.random(shape) < special.expit(logit + shift)).astype(np.int64)
        self.shift = world.weather * _daily(world, days, rng, world.features)

    def part(self, first: int, last: int) -> Days:
        """The days from `first` up to, but not including, `last`."""
        return self.ordered(np.arange(first, last))

    def ordered(self, days: NDArray[np.int64]) -> Days:
        """The named days, in that order."""
        out = object.__new__(Days)
        out.score, out.label, out.shift = (column[days] for column in (self.score, self.label, self.shift))
        return out


def learn(spec: Specification, world: World, days: Days, rng: np.random.Generator, *, first_day: int = 0) -> PanePlan:
    """A plan whose reference was compiled from the rows of `days`."""
    score, label = days.score.ravel(), days.label.ravel()
    count, rows = days.score.shape
    at = np.repeat((first_day + np.arange(count)) * DAY_MS, rows)
    columns = {f"x{i}": rng.normal(size=len(score)) + np.repeat(days.shift[:, i], rows) for i in range(world.features)}
    reference = compile_reference(
        spec,
        columns,
        labels=label,
        predictions=(score >= spec.model.threshold).astype(np.int64),
        scores=score,
        event_time_ms=at,
        importances=dict.fromkeys(columns, 1.0 / world.features),
    )
    return PanePlan(spec, reference)


def panes(plan: PanePlan, days: Days, rng: np.random.Generator, *, worse: float = 0.0, since: int = 0) -> Counts:
    """Counters of the days, one pane each.

    Parameters
    ----------
    worse : float
        Points of accuracy that are lost from day `since` on: labels flip at random.
    """
    count, rows = days.score.shape
    label = days.label
    if worse:
        right = float((label == (days.score >= plan.spec.model.threshold)).mean())
        flips = rng.random(label.shape) < worse / (2 * right - 1)
        flips[:since] = False
        label = np.where(flips, 1 - label, label)
    day = np.repeat(np.arange(count), rows)
    score = days.score.ravel()
    guess = (score >= plan.spec.model.threshold).astype(np.int64)
    out = label_counters(plan, label.ravel(), guess, score, groups=day, group_count=count)
    out[:, plan.slots["predicted"]] = rows
    _count(out, plan.slots["scores"], day, np.searchsorted(plan.score_edges, score, side="right"))
    _count(out, plan.slots["predictions"], day, guess)
    for column, name in enumerate(plan.features):
        _feature(plan, name, out, days.shift[:, column], rng)
    return out


def _count(out: Counts, where: slice, day: Counts, codes: Counts) -> None:
    size = where.stop - where.start
    out[:, where] = np.bincount(day * size + codes, minlength=len(out) * size).reshape(len(out), size)


def _feature(plan: PanePlan, name: str, out: Counts, shift: Floats, rng: np.random.Generator) -> None:
    """Draw a feature's counts: as many normal values by bin, without drawing the values."""
    rows = int(out[0, plan.slots["predicted"].start])
    slots = plan.features[name]
    reference = plan.reference.features[name]
    assert isinstance(reference, NumericReference)
    # Beyond the smallest and largest value of the reference there are cells of their own.
    cells = np.array([reference.minimum, *reference.edges, np.nextafter(reference.maximum, np.inf)])
    if shift.any():
        shares = np.diff(special.ndtr(cells[None, :] - shift[:, None]), axis=1, prepend=0.0, append=1.0)
    else:
        shares = np.diff(special.ndtr(cells), prepend=0.0, append=1.0)
    drawn = rng.multinomial(rows, shares, size=None if shift.any() else len(out))
    bins = drawn[:, 1:-1].copy()
    bins[:, 0] += drawn[:, 0]
    bins[:, -1] += drawn[:, -1]
    out[:, slots.bins] = bins
    out[:, slots.low] = drawn[:, 0]
    out[:, slots.high] = drawn[:, -1]
    mean = rows * (shift - reference.mean) + math.sqrt(rows) * rng.normal(size=len(out))
    # Of the outer bins, means as the reference's: nothing that decides here is made of them.
    for position, column in ((slots.first_total, 0), (slots.last_total, -1)):
        typical = (reference.means[column] - reference.mean) / (reference.std or 1.0)
        out[:, position] = np.rint(bins[:, column] * typical * TAIL).astype(np.int64)
    out[:, slots.total] = np.rint(mean / (reference.std or 1.0) * COARSE).astype(np.int64)
