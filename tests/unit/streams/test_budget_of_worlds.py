"""Budgets are kept while nothing changes: measured on simulated worlds, seeded."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from schemas.events import Observation
from tests.support.simulate import World, learn, live, watching

MONTHS = 18  # 3 models of 180 days each
CALM = World()
STORMY = World(wobble=0.3, weather=0.5)


def _opened(observations: Iterable[Observation]) -> list[Observation]:
    return [o for o in observations if o.status == "opened"]


def _incidents(observations: Iterable[Observation]) -> int:
    """Times at which something worth acting on opened while nothing else was open."""
    open_: set[tuple[str, ...]] = set()
    count = 0
    for o in observations:
        key = (o.kind, o.subject, str(o.segment), o.window)
        if o.kind not in {"quality", "data-quality", "coverage"}:
            continue
        if o.status == "closed":
            open_.discard(key)
        elif o.severity != "info":
            count += not open_
            open_.add(key)
    return count


def _run(world: World, task: str, days_learnt: int) -> list[list[Observation]]:
    out = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        learnt = learn(watching(task), world, days_learnt, rng)
        out.append(live(learnt, world, 180, rng))
    return out


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_stationary_model_stays_within_its_budget(task: str) -> None:
    """Budget 1/30d: at most one false observation a month over all metrics, windows, segments and features."""
    runs = _run(CALM, task, 14)
    assert sum(len(_opened(run)) for run in runs) <= MONTHS
    assert sum(_incidents(run) for run in runs) <= MONTHS / 2


def test_days_that_differ_by_themselves_are_no_incidents() -> None:
    """Days that scatter with long tails: incidents stay within the budget.

    Single observations may exceed it up to threefold: one bad day crosses in several metrics, windows and segments at
    once, and a month of such days tells their spread badly.
    """
    runs = _run(STORMY, "binary", 30)
    assert sum(len(_opened(run)) for run in runs) <= 3 * MONTHS
    assert sum(_incidents(run) for run in runs) <= MONTHS
