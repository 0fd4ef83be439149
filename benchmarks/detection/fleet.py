"""A fleet of stationary models against its budget: false incidents, and the losses found at that budget.

Every model learns a reference from some days, then lives through others. Only traffic and labels are simulated (counts
by pane); windows, tests, thresholds and incidents are those of production: `Series`, `Detectors` and `AlertBook`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from agents.alerting.budget import share
from agents.alerting.logic import AlertBook
from benchmarks.detection.contenders.driftline import Driftline
from benchmarks.detection.fleet_world import DAY_MS, Days, World, learn, panes, specification
from benchmarks.detection.memory import Memory, code
from schemas.codec import utc
from schemas.durations import parse_rate
from schemas.events import DriftMetric, Observation, PaneClosed
from schemas.reference import NumericReference
from schemas.specification import Specification
from streams.drift.volume import VolumeState
from streams.panes import PanePlan
from streams.series import Pane, Series
from streams.sketches import coarse_groups
from streams.versions import Versions
from streams.windows import Frame, Window

Counts = NDArray[np.int64]
Note = Callable[[str], None]

NAIVE_P: Final = 0.05
CHUNK: Final = 50
"""Models by task of a worker process; each has a random generator of its own, so chunks change nothing."""
MODELS: Final = 18_000
BY_SEED: Final = 600
"""Models simulated for each seed of the other streams, about three minutes of one core."""
_MEMORY: Final = "fleet"


@dataclass(frozen=True)
class Fleet:
    """What is simulated.

    Parameters
    ----------
    models, days, reference_days : int
    seed : int
        Model i draws from the generator of (seed, i).
    fleet_budget, budget : str
        False incidents over all models, and of one model.
    worse : float
        Points of accuracy that some models lose for good, in a run of their own.
    worse_share : float
        The share of such models.
    worse_day : int
        From which live day on.
    """

    models: int = MODELS
    days: int = 90
    reference_days: int = 14
    seed: int = 1
    world: World = field(default_factory=World)
    fleet_budget: str = "1/1d"
    budget: str = "1/30d"
    windows: tuple[str, ...] = ("1d", "7d")
    worse: float = 0.05
    worse_share: float = 0.01
    worse_day: int = 30


@dataclass
class Tally:
    """What happened, summed over models."""

    models: int = 0
    incidents: list[tuple[int, int, str]] = field(default_factory=list)
    """Model, day (at whose end) and kind of every incident that opened."""
    observations: Counter[str] = field(default_factory=Counter)
    own_budget: int = 0
    """Incidents where each model has its own budget only."""
    naive: int = 0
    """Feature tests with p below 0.05, one a feature and day."""
    naive_models: int = 0
    """Days on which a model had at least one."""
    cpu_seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Take another tally in."""
        self.models += other.models
        self.incidents += other.incidents
        self.observations += other.observations
        self.own_budget += other.own_budget
        self.naive += other.naive
        self.naive_models += other.naive_models
        self.cpu_seconds += other.cpu_seconds

    def told(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**vars(self), "observations": dict(self.observations)}  # `asdict` counts a Counter's pairs

    @classmethod
    def of(cls, told: dict[str, Any]) -> Tally:
        """The tally that `told` this, from JSON."""
        return cls(
            **{
                **told,
                "incidents": [(model, day, kind) for model, day, kind in told["incidents"]],
                "observations": Counter(told["observations"]),
            }
        )


class CountedSeries(Series):
    """A series whose panes are at hand as sums, and that publishes no charts: windows and tests are the inherited ones.

    Parameters
    ----------
    plan : PanePlan
    counts : array of int64, shape (days, counters)
    """

    __slots__ = ("_totals", "_volume")

    def __init__(self, plan: PanePlan, counts: Counts) -> None:
        super().__init__("m", 1, plan.layout, Frame.of(plan))
        self._totals = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), np.cumsum(counts, axis=0)])
        self.frontier = self.closed_traffic = self.closed_quality = 0
        self._volume = VolumeState()
        self.first_traffic = -DAY_MS  # the version answered before: its first day is a whole one

    def live(self, plan: PanePlan, day: int) -> list[Observation]:
        """Midnight after a day: its traffic closes, and the labels of the day before."""
        frame = self.frame
        counts = self._totals[day + 1] - self._totals[day]
        self.panes.setdefault("", {})[day * DAY_MS] = Pane(
            b"", int(counts[frame.predicted]), int(counts[frame.labelled])
        )
        self.last_traffic = day * DAY_MS
        versions = Versions([self], self._volume)
        found = self.close(plan, (day + 1) * DAY_MS, set(), versions).observations
        versions.learn()
        return found

    def _sum(self, segment: str, window: Window) -> tuple[Counts, int]:
        first, last = max(window.start_ms // DAY_MS, 0), min(window.end_ms // DAY_MS, len(self._totals) - 1)
        del segment
        return self._totals[last] - self._totals[first], last - first

    def _drift(self, *about: Any, **more: Any) -> Iterator[DriftMetric]:
        """The series for charts is not published."""
        del about, more
        return iter(())


def life(fleet: Fleet, model: int, *, worse: bool) -> tuple[PanePlan, Counts]:
    """A model's plan, compiled from its reference days, and the counters of its live days."""
    rng = np.random.default_rng([fleet.seed, int(worse), model])
    spec = specification(fleet.world.features, budget=fleet.budget, windows=fleet.windows)
    # The days before and after are one stretch of time: what today is like follows from yesterday.
    every = Days(fleet.world, fleet.reference_days + fleet.days + 1, rng)
    plan = learn(spec, fleet.world, every.part(0, fleet.reference_days), rng, first_day=-fleet.reference_days)
    live = every.part(fleet.reference_days, fleet.reference_days + fleet.days + 1)  # its labels close a day later
    return plan, panes(plan, live, rng, worse=fleet.worse if worse else 0.0, since=fleet.worse_day)


def simulate(fleet: Fleet, model: int, *, worse: bool = False) -> Tally:
    """One model's life: its incidents under the fleet's budget, and under its own alone."""
    began = time.process_time()
    plan, counts = life(fleet, model, worse=worse)
    series = CountedSeries(plan, counts)
    allowed = share(parse_rate(fleet.fleet_budget), fleet.models)
    tally = Tally(models=1)
    books = [_Book(plan.spec, allowed), _Book(plan.spec, None)]
    for day in range(fleet.days + 1):
        observations = series.live(plan, day)
        for observation in observations:
            if observation.status == "opened":
                tally.observations[observation.kind] += 1
        for book in books:
            book.day(observations, day)
    tally.incidents = [(model, day, kind) for day, kind in books[0].opened]
    tally.own_budget = len(books[1].opened)
    if not worse:
        crossed = _naive(plan, counts[: fleet.days])
        tally.naive = int(crossed.sum())
        tally.naive_models = int(crossed.any(axis=1).sum())
    tally.cpu_seconds = time.process_time() - began
    return tally


class _Book:
    """The incidents of one model, as alerting keeps them."""

    def __init__(self, spec: Specification, allowed: float | None) -> None:
        self._spec = spec
        self._share = allowed
        self._book = AlertBook(model="m")
        self.opened: list[tuple[int, str]] = []

    def day(self, observations: list[Observation], day: int) -> None:
        """What one day's closing said, then that the day closed."""
        alerts = []
        for observation in observations:
            alerts += self._book.observed(observation, self._spec, self._share).alerts
        if self._book.crossings or self._book.incidents:
            end = (day + 1) * DAY_MS
            pane = PaneClosed(
                model="m",
                pane_start=utc(end - DAY_MS),
                pane_end=utc(end),
                observed_at=utc(end),
                labelled=0,
            )
            alerts += self._book.pane_closed(pane, self._spec).alerts
        self.opened += [(day, alert.kind) for _, alert in alerts if alert.status == "opened"]


def _naive(plan: PanePlan, counts: Counts) -> NDArray[np.bool_]:
    """The rule many start with: chi-squared of every feature every day against the reference, alarm where p < 0.05."""
    out = []
    for name, slots in plan.features.items():
        feature = plan.reference.features[name]
        assert isinstance(feature, NumericReference)
        starts = np.flatnonzero(np.diff(coarse_groups(feature), prepend=-1))
        seen = np.add.reduceat(counts[:, slots.bins], starts, axis=1).astype(np.float64)
        reference = np.add.reduceat(np.array(feature.counts, dtype=np.float64), starts)
        n, m = seen.sum(axis=1), reference.sum()
        ratio = np.sqrt(m / n)[:, None]
        statistic = ((seen * ratio - reference / ratio) ** 2 / np.maximum(seen + reference, 1.0)).sum(axis=1)
        out.append(special.chdtrc(len(reference) - 1, statistic) < NAIVE_P)
    return np.array(out).T


def lives(fleet: Fleet, first: int, last: int, worse: bool) -> Tally:
    """`simulate` of the models from `first` up to, but not including, `last`."""
    out = Tally()
    for model in range(first, last):
        out.add(simulate(fleet, model, worse=worse))
    return out


def tally(
    fleet: Fleet,
    models: int,
    *,
    worse: bool = False,
    processes: int = 1,
    memory: Memory | None = None,
    note: Note = lambda text: None,
) -> Tally:
    """`simulate` of the first `models`; the fleet's budget is divided by `fleet.models` whatever their number.

    Parameters
    ----------
    processes : int
        Worker processes; the result does not depend on them.
    memory : Memory, optional
        What is in it is not simulated again: a run that was stopped goes on.
    """
    kept = memory or Memory()
    tag = _tag(fleet, worse)
    ranges = [(first, min(first + CHUNK, models)) for first in range(0, models, CHUNK)]
    keys = {f"{tag} {first}-{last}": (first, last) for first, last in ranges}
    fresh = {key: about for key, about in keys.items() if key not in kept.of(_MEMORY)}
    done = models - sum(last - first for first, last in fresh.values())

    def keep(key: str, part: Tally) -> None:
        nonlocal done
        kept.keep(_MEMORY, {key: part.told()})
        done += part.models
        note(f"{done} of {models} models")

    if processes <= 1:
        for key, (first, last) in fresh.items():
            keep(key, lives(fleet, first, last, worse))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(lives, fleet, first, last, worse): key for key, (first, last) in fresh.items()}
            for future in as_completed(futures):
                keep(futures[future], future.result())
    out = Tally()
    for key in keys:
        out.add(Tally.of(kept.of(_MEMORY)[key]))
    return out


def _tag(fleet: Fleet, worse: bool) -> str:
    """What a chunk's tally depends on besides its models: version, code and all that is simulated."""
    here = Path(__file__).parent
    sources = [*Driftline().code(), here / "fleet.py", here / "fleet_world.py"]
    what = hashlib.sha256(repr((fleet, worse)).encode()).hexdigest()[:12]
    return f"{version('driftline')} {code(sources)} {what}"


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean (Garwood).

    Examples
    --------
    >>> [round(end, 2) for end in poisson_interval(10)]
    [4.8, 18.39]
    """
    tail = (1 - confidence) / 2
    low = float(special.chdtri(2 * count, 1 - tail)) / 2 if count else 0.0
    return low, float(special.chdtri(2 * count + 2, tail)) / 2


def binomial_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson).

    Examples
    --------
    >>> [round(end, 3) for end in binomial_interval(5, 10)]
    [0.187, 0.813]
    """
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def run(
    models: int = MODELS,
    days: int = 90,
    seed: int = 1,
    *,
    share_of_models: float = 1.0,
    world: World | None = None,
    processes: int = 1,
    memory: Memory | None = None,
    note: Note = lambda text: None,
    **over: Any,
) -> list[dict[str, Any]]:
    """The rows of the benchmark `fleet`.

    Parameters
    ----------
    models, days, seed : int
    share_of_models : float
        Simulate this part of the models only (the first ones), each with its share of the budget of them all; counts
        are then those of the part.
    **over
        Other parameters of `Fleet`.

    Returns
    -------
    list of dict
        ``name``, ``version``, ``value``, ``unit``, ``spread`` (95 % interval) and what lies behind them.

    Notes
    -----
    About 0.25 s of one core a model at 90 days: 1,000 models take four minutes, 18,000 more than an hour.
    """
    fleet = Fleet(models=models, days=days, seed=seed, world=world or World(), **over)
    simulated = max(round(models * share_of_models), 1)
    still = tally(fleet, simulated, processes=processes, memory=memory, note=note)
    losing = max(round(simulated * fleet.worse_share), min(100, models))
    lost = tally(fleet, losing, worse=True, processes=processes, memory=memory, note=note)
    return rows(fleet, still, lost)


def rows(fleet: Fleet, still: Tally, lost: Tally) -> list[dict[str, Any]]:
    """What the tallies of stationary and of losing models say."""
    budget = parse_rate(fleet.fleet_budget) * DAY_MS * fleet.days * still.models / fleet.models
    first = _first_days(fleet, lost)
    found = len(first)
    early = sum(1 for model, day, _ in lost.incidents if day < fleet.worse_day)
    about = {
        "models": still.models,
        "fleet": fleet.models,
        "days": fleet.days,
        "reference_days": fleet.reference_days,
        "seed": fleet.seed,
        "world": asdict(fleet.world),
        "fleet_budget": fleet.fleet_budget,
        "budget": fleet.budget,
        "windows": list(fleet.windows),
    }
    delays = sorted(day - fleet.worse_day + 1 for day in first.values())
    kinds = Counter(kind for _, _, kind in still.incidents)
    return [
        _row("fleet_false_incidents", len(still.incidents), poisson_interval(len(still.incidents)))
        | {"allowed": round(budget, 3), "kinds": dict(kinds), "observations": dict(still.observations)}
        | {"cpu_seconds": round(still.cpu_seconds, 1), **about},
        _row("fleet_false_incidents_own_budgets_only", still.own_budget, poisson_interval(still.own_budget))
        | {"allowed": round(parse_rate(fleet.budget) * DAY_MS * fleet.days * still.models, 3)},
        _row("fleet_naive_p_below_0.05", still.naive, poisson_interval(still.naive), "false alarms")
        | {"a_day": round(still.naive / fleet.days, 1), "models_a_day": round(still.naive_models / fleet.days, 1)},
        _row("fleet_power", found / lost.models, binomial_interval(found, lost.models), "share of losing models found")
        | {
            "losing_models": lost.models,
            "points": 100 * fleet.worse,
            "from_day": fleet.worse_day,
            "within_days": fleet.days - fleet.worse_day,
            "delay_days_median": delays[len(delays) // 2] if delays else None,
            "delay_days_p90": delays[int(len(delays) * 0.9)] if delays else None,
            "before_the_loss": early,
        },
    ]


def _first_days(fleet: Fleet, lost: Tally) -> dict[int, int]:
    """Day of the first incident since the loss, by model."""
    first: dict[int, int] = {}
    for model, day, _ in lost.incidents:
        if day >= fleet.worse_day:
            first[model] = min(day, first.get(model, day))
    return first


def _row(name: str, value: float, spread: tuple[float, float], unit: str = "false incidents") -> dict[str, Any]:
    return {
        "name": name,
        "version": "driftline",
        "value": round(value, 4),
        "unit": unit,
        "spread": [round(end, 4) for end in spread],
    }


def part(
    *, seeds: int, models: int | None = None, memory: Memory | None = None, note: Note = lambda text: None
) -> dict[str, Any]:
    """The fleet's part of ``driftline bench detection``: some of 18,000 models, each with its share of the budget.

    Parameters
    ----------
    seeds : int
        `BY_SEED` models are simulated for each, all of the fleet at most.
    models : int, optional
        So many instead.
    memory : Memory, optional
        As of `tally`.
    """
    simulated = min(seeds * BY_SEED if models is None else models, MODELS)
    fraction = simulated / MODELS
    return {
        "rows": run(share_of_models=fraction, processes=os.cpu_count() or 1, memory=memory, note=note),
        "settings": {"models": MODELS, "simulated": simulated, "days": 90, "seed": 1},
    }
