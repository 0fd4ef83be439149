"""What a p-value of a change says, it keeps: on stationary losses no smaller one comes more often than it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.events import Observation
from streams.aggregate import AggregatePartition
from streams.drift.change import change_p
from streams.metrics.levels import stretch
from tests.support.replay import DAY, watermark
from tests.support.simulate import World, day_of, learn, record_of, watching

Losses = NDArray[np.float64]
PANES = 60
STREAMS = 600
LIMITS = (1e-1, 1e-2, 1e-3, 1e-4)


def _correlated(rng: np.random.Generator, memory: float) -> Losses:
    out = rng.normal(size=(STREAMS, PANES))
    for at in range(1, PANES):
        out[:, at] = memory * out[:, at - 1] + np.sqrt(1 - memory * memory) * out[:, at]
    return out / np.sqrt(stretch(memory, 1e6))


WORLDS: dict[str, tuple[Callable[[np.random.Generator], Losses], float]] = {
    "normal": (lambda rng: rng.normal(size=(STREAMS, PANES)), 1.0),
    "bad days": (lambda rng: rng.exponential(size=(STREAMS, PANES)) - 1, 1.0),
    "odd days": (lambda rng: rng.standard_t(3, size=(STREAMS, PANES)) / np.sqrt(3), 1.0),
    "a reference that knew too little": (lambda rng: 1.5 * (rng.exponential(size=(STREAMS, PANES)) - 1), 1.0),
    "days like the day before": (lambda rng: _correlated(rng, 0.6), 1 / stretch(0.6, 1e6)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_stationary_losses_show_no_change_less_likely_than_it_says(name: str) -> None:
    """Every fifth pane of every stream; those of one stream are counted as one look each, as the budget counts them."""
    draw, share = WORLDS[name]
    losses = draw(np.random.default_rng(17))
    found = np.array([change_p(row[:at].tolist(), share) for row in losses for at in range(20, PANES + 1, 5)])
    for limit in LIMITS:
        # Neighbouring panes of a stream show the same change: the scatter is that of streams, not of panes.
        most = limit * len(found) + 5 * np.sqrt(limit * len(found) * 5)
        assert (found <= limit).sum() <= most, (limit, (found <= limit).mean())


def test_a_change_that_lasts_gets_less_likely_with_every_pane() -> None:
    rng = np.random.default_rng(5)
    losses = [*rng.normal(size=40), *rng.normal(3.0, 1.0, size=20)]
    seen = [change_p(losses[:at], 1.0) for at in (40, 44, 48, 52, 60)]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 0.05
    assert seen[-1] < 1e-6
    better = [*rng.normal(size=40), *rng.normal(-3.0, 1.0, size=20)]
    assert change_p(better, 1.0) > 0.05


@pytest.mark.parametrize("detector", ["page-hinkley", "ddm", "hddm", "adwin"])
def test_a_lasting_loss_is_told_again_until_a_fleet_believes_it(detector: str) -> None:
    """An alarm alone is what the detector was allowed; the panes that follow say how unlikely it is."""
    rng = np.random.default_rng(2)
    plan = learn(watching(windows=("1d",)), World(rows=260), 14, rng)
    aggregate = AggregatePartition(1, lambda model, version: plan)
    told: list[Observation] = []
    for day in range(90):
        world = World(rows=260, wrong=0.35 if day >= 30 else 0.0)
        aggregate.merge(record_of(plan, day_of(world, rng), day))
        events = aggregate.merge(watermark((day + 1) * DAY))
        told += [e for e in events if isinstance(e, Observation) and e.window == detector]
    chances = [o.evidence["p_value"] for o in told if o.status != "closed"]
    assert told[0].status == "opened"
    assert chances[0] <= told[0].evidence["p"]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] <= told[0].evidence["p"] / 600  # what one of 18,000 models may raise, of its own budget
