"""Many subjects at once are measured and judged as each would be alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.events import Observation
from streams.detection import Watches
from streams.detectors import Detectors
from streams.drift.subjects import subjects
from streams.drift.table import SubjectTable
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.plainly import observed, plain_traffic, statistics
from tests.support.plans import plan
from tests.support.simulate import World, learn, watching

DAY = 86_400_000
Counts = NDArray[np.int64]


def window_of(p: PanePlan, rng: np.random.Generator, n: int, *, tilt: float = 0.0, lost: float = 0.0) -> Counts:
    """Random counters of `n` events; `tilt` moves them away from the reference."""
    total = np.zeros(p.size, np.int64)
    for subject in subjects(p):
        if subject.slots is not None:
            where = subject.slots.bins
        elif subject.name == "prediction":
            where = p.slots["predictions" if subject.groups is None else "scores"]
        else:
            where = p.slots[{"binary": "confusion", "multiclass": "truth", "regression": "labels"}[p.task]]
        shares = rng.dirichlet(np.full(where.stop - where.start, 3.0))
        if len(subject.reference) == len(shares):
            shares = np.where(subject.reference > 0, shares, 0.0) / shares[subject.reference > 0].sum()
            shares = (1 - tilt) * subject.reference / subject.reference.sum() + tilt * shares
        present = n
        if subject.slots is not None:
            gone = int(rng.binomial(n, lost))
            present -= gone
            total[subject.slots.missing] = gone // 2
            total[subject.slots.invalid] = gone - gone // 2
            if subject.slots.numeric:
                total[subject.slots.low] = present // 1000
                total[subject.slots.total] = rng.integers(-(10**6), 10**6)
        total[where] = rng.multinomial(present, shares)
    total[p.slots["predicted"]] = n
    return total


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("n", [0, 1, 137, 20_000])
def test_every_row_is_what_its_subject_alone_would_be(task: str, n: int) -> None:
    p = plan(task)
    rng = np.random.default_rng(n)
    table = SubjectTable(p, subjects(p))
    for tilt in (0.0, 0.5, 1.0):
        total = window_of(p, rng, n, tilt=tilt, lost=0.1)
        measured = table.measure(total)
        for row, subject in enumerate(table.subjects):
            counts = observed(p, subject, total)
            assert measured.counts[row, : len(counts)].tolist() == counts.tolist()
            assert measured.n[row] == counts.sum()
            alone = statistics(p, subject, counts, total)
            together = measured.statistics(row)
            assert list(together) == list(alone)
            for name, value in alone.items():
                assert together[name] == (None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12))


def _said(observation: Observation) -> tuple[object, ...]:
    """All of an observation, numbers to nine digits."""
    o = observation
    numbers = (o.value, o.reference, o.threshold, *(o.evidence[name] for name in sorted(o.evidence)))
    rounded = tuple(round(number, 9) if isinstance(number, float) else number for number in numbers)
    return (o.observation_id, o.kind, o.subject, o.status, o.severity, o.window, o.n, sorted(o.evidence), rounded)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_same_is_observed_as_subject_by_subject(task: str) -> None:
    rng = np.random.default_rng(4)
    p = learn(watching(task), World(), 14, rng) if task != "multiclass" else plan(task)
    detectors, watches = Detectors("m", 1, p), Watches("m", 1)
    said = 0
    for day in range(120):
        troubled = (day // 10) % 2 == 1
        tilt = float(rng.choice([0.05, 0.3, 1.0])) if troubled else 0.0
        total = window_of(p, rng, int(rng.choice([90, 300, 5000])), tilt=tilt, lost=0.2 if troubled else 0.0)
        window = Window(["1d", "7d"][day % 2], day * DAY, (day + 1) * DAY)
        found = [_said(o) for o in detectors.traffic(window, total, window.end_ms)]
        assert found == [_said(o) for o in plain_traffic(p, watches, window, total, window.end_ms)]
        said += len(found)
        assert detectors.watches.open.keys() == watches.open.keys()
    assert said > 10
