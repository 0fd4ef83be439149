"""What alarms promise whatever comes: hysteresis, a minimum of events, nothing about quality on thin coverage."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import segment_of, utc
from schemas.events import Observation, QualityMetric
from streams.detection import GOOD_PANES, Finding, Key, Watches
from streams.detectors import COVERAGE_PANES, THIN, Detectors
from streams.metrics.batch import label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.replay import DAY
from tests.support.simulate import World, day_of, learn, watching

USUAL = 0.9
"""Coverage that the detectors below know as usual."""


@lru_cache(maxsize=1)
def _plan() -> PanePlan:
    return learn(watching(windows=("1d",)), World(), 14, np.random.default_rng(1))


def _judged(n: int, coverage: float, wrong: float, segment: str = "") -> list[Observation]:
    """What a day of so many labelled events says about quality."""
    plan = _plan()
    detectors = Detectors("m", 1, plan)
    detectors.coverage = [USUAL] * COVERAGE_PANES
    rng = np.random.default_rng(2)
    rows = day_of(World(rows=5_000, wrong=wrong), rng)
    total = label_counters(plan, rows["label"][:n], rows["guess"][:n], rows["score"][:n])[0]
    metric = QualityMetric(
        model="m", version=1, window="1d", window_start=utc(0), window_end=utc(DAY), state="closed", revision=0,
        n=n, coverage=coverage, metrics=compute(plan, total, plan.spec.judged), segment=segment_of(segment),
    )  # fmt: skip
    return list(detectors.quality(segment, Window("1d", 0, DAY), metric, total=total, filled=1, now_ms=DAY))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.floats(0.0, 1.0), st.sampled_from(["", "origin=EWR"]))
def test_few_labelled_events_say_nothing_about_quality(n: int, wrong: float, segment: str) -> None:
    found = _judged(n, USUAL, wrong, segment)
    if n < _plan().spec.alarms.minimum_labelled:
        assert found == []
    elif wrong > 0.95:
        assert found


@settings(max_examples=40, deadline=None)
@given(st.integers(100, 2_000), st.floats(0.01, 1.0), st.floats(0.9, 1.0))
def test_thin_coverage_never_alarms_quality(n: int, coverage: float, wrong: float) -> None:
    """However bad the labels that came: they may be the bad ones."""
    found = _judged(n, coverage, wrong)
    assert bool(found) == (coverage >= THIN * USUAL)


def _finding(day: int, value: float) -> Finding:
    """Crosses above 1, is back below a half."""
    return Finding(day * DAY, (day + 1) * DAY, value, 0.0, 1.0, 100, "warning", value > 1.0, value < 0.5, {})


@given(st.lists(st.floats(0.0, 2.0), max_size=60))
def test_an_observation_closes_after_good_panes_in_a_row_and_not_before(values: list[float]) -> None:
    watches, key = Watches("m", 1), Key("quality", "brier", "", "1d")
    opened, good = False, 0
    for day, value in enumerate(values):
        said = watches.look(key, _finding(day, value), day)
        good = good + 1 if value < 0.5 else 0
        wanted = None
        if not opened and value > 1.0:
            wanted, opened = "opened", True
        elif opened and good >= GOOD_PANES:
            wanted, opened = "closed", False
        assert (said.status if said is not None else None) == wanted
        if not opened:
            good = 0
        assert (key in watches.open) == opened


@given(st.lists(st.floats(0.5, 2.0), max_size=60))
def test_values_around_the_bound_do_not_flap(values: list[float]) -> None:
    watches, key = Watches("m", 1), Key("quality", "brier", "", "1d")
    said = [watches.look(key, _finding(day, value), day) for day, value in enumerate(values)]
    assert sum(each is not None for each in said) <= 1
