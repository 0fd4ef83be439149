"""The budget over whole lives of simulated models: permuted stationary days, correlated days, a fleet's share."""

from __future__ import annotations

import numpy as np
import pytest

from agents.alerting.budget import share
from agents.alerting.logic import AlertBook
from benchmarks.detection.fleet import CountedSeries, Fleet, tally
from benchmarks.detection.fleet_world import Days, World, learn, panes, specification
from schemas.durations import parse_rate
from schemas.events import Observation
from streams.panes import PanePlan

LEARNT, LIVE = 14, 60


def _incidents(plan: PanePlan, counts: np.ndarray, allowed: float | None = None) -> int:
    series, book = CountedSeries(plan, counts), AlertBook(model="m")
    opened = 0
    for day in range(len(counts)):
        for observation in series.live(plan, day):
            assert isinstance(observation, Observation)
            alerts = book.observed(observation, plan.spec, allowed).alerts
            opened += sum(alert.status == "opened" for _, alert in alerts)
    return opened


@pytest.mark.parametrize("wobble", [0.0, 0.8])
def test_permuted_days_raise_no_more_than_the_budget(wobble: float) -> None:
    """Days of one pool in any order, the first of them learnt from: whatever crosses is false.

    30 orders of 60 live days at 1/30d: 60 false incidents are tolerated; the bound asked for is a third of that.
    """
    rng = np.random.default_rng(17)
    world = World(features=2, wobble=wobble)
    spec = specification(world.features, budget="1/30d")
    pool = Days(world, LEARNT + LIVE, rng)
    total = 0
    for _ in range(30):
        days = pool.ordered(rng.permutation(LEARNT + LIVE))
        plan = learn(spec, world, days.part(0, LEARNT), rng, first_day=-LEARNT)
        total += _incidents(plan, panes(plan, days.part(LEARNT, LEARNT + LIVE), rng))
    assert total <= 20


@pytest.mark.parametrize(
    "world",
    [
        World(features=2, wobble=0.5, memory=0.7),  # days follow each other
        World(features=2, wobble=0.8, memory=0.5, weather=0.3),  # and differ, inputs too
    ],
)
def test_days_that_follow_each_other_stay_within_the_budget(world: World) -> None:
    """25 models of 60 days at 1/30d: 50 false incidents are tolerated."""
    found = tally(Fleet(models=25, days=LIVE, world=world, fleet_budget="1000/1d", seed=23), 25)
    assert found.own_budget <= 50


def test_a_small_share_of_a_fleet_raises_less_and_never_more() -> None:
    world = World(features=2, wobble=0.8, memory=0.5)
    rng = np.random.default_rng(29)
    spec = specification(world.features, budget="1/7d")
    by_fleet = dict.fromkeys((1, 100, 10000), 0)
    for _ in range(8):
        days = Days(world, LEARNT + LIVE, rng)
        plan = learn(spec, world, days.part(0, LEARNT), rng, first_day=-LEARNT)
        counts = panes(plan, days.part(LEARNT, LEARNT + LIVE), rng)
        for models in by_fleet:
            by_fleet[models] += _incidents(plan, counts, share(parse_rate("1/1d"), models))
    assert by_fleet[1] > 0
    assert by_fleet[1] >= by_fleet[100] >= by_fleet[10_000]
    assert by_fleet[10_000] < by_fleet[1]


def test_a_simulated_fleet_is_a_function_of_its_seed() -> None:
    fleet = Fleet(models=18_000, days=40, world=World(features=2, wobble=0.8), seed=31)
    once, again = (tally(fleet, 3) for _ in range(2))
    assert (once.incidents, once.observations, once.naive) == (again.incidents, again.observations, again.naive)
    other = tally(Fleet(models=18_000, days=40, world=World(features=2, wobble=0.8), seed=32), 3)
    assert other.naive != once.naive
