"""Weekly rhythm: what every weekend does is no news, what one weekend does is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import msgspec
import numpy as np
import pytest

from agents.alerting.logic import AlertBook
from schemas.codec import decode, encode
from schemas.events import DeltaRecord, Observation, PaneClosed
from schemas.reference import MetricReference, ReferenceStatistics
from streams.aggregate import AggregatePartition
from streams.drift.scatter import Coded, drift_key
from streams.drift.weekly import WeekLearner
from streams.panes import PanePlan
from streams.weekdays import on_weekday, shifted, weekly
from tests.support.replay import DAY, watermark
from tests.support.simulate import World, day_of, learn_from, record_of, watching

WEEK, WEEKEND = World(rows=800), World(rows=250, shift=0.8, wrong=0.08)
LIVE = 35
"""Days; the epoch is a Thursday, so a weekend is days 2 and 3 of seven."""
Bad = Callable[[int, World], World]


def _world(day: int) -> World:
    return WEEKEND if day % 7 in {2, 3} else WEEK


@lru_cache(maxsize=4)
def _learnt(days: int) -> PanePlan:
    rng = np.random.default_rng(days)
    return learn_from(watching(windows=("1d", "7d")), [day_of(_world(day), rng) for day in range(days)])


def _live(
    plan: PanePlan, seed: int, bad: Bad = lambda day, world: world, *, restarted: bool = False
) -> tuple[list[Observation], int]:
    """Observations that opened, and how many incidents did."""
    rng = np.random.default_rng(seed)
    aggregate, book = AggregatePartition(1, lambda model, version: plan), AlertBook(model="m")
    opened: list[Observation] = []
    incidents = 0
    for day in range(LIVE):
        at = 35 + day
        records: list[DeltaRecord] = [
            record_of(plan, day_of(bad(day, _world(at)), rng), at), watermark((at + 1) * DAY),
        ]  # fmt: skip
        for record in records:
            for event in aggregate.merge(record):
                alerts = []
                if isinstance(event, Observation):
                    opened += [event] if event.status == "opened" else []
                    alerts = book.observed(event, plan.spec, None).alerts
                elif isinstance(event, PaneClosed):
                    alerts = book.pane_closed(event, plan.spec).alerts
                incidents += sum(alert.status == "opened" for _, alert in alerts)
        if restarted:
            aggregate = AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: plan)
    return opened, incidents


def _without_weekdays(plan: PanePlan) -> PanePlan:
    metrics = {name: msgspec.structs.replace(level, week=[]) for name, level in plan.reference.metrics.items()}
    return PanePlan(plan.spec, msgspec.structs.replace(plan.reference, metrics=metrics, weekdays=None))


def _day(opened: list[Observation], kind: str, window: str = "1d") -> list[int]:
    return [
        int(o.window_end.timestamp() * 1000) // DAY - 36
        for o in opened
        if o.kind == kind and o.window == window and o.segment is None
    ]


# ------------------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("reference", [14, 35])
def test_a_weekly_rhythm_opens_no_incident(reference: int) -> None:
    """Traffic falls to a third, a feature shifts and quality drops every weekend for five weeks."""
    opened, incidents = _live(_learnt(reference), 1)
    assert incidents == 0
    assert [o for o in opened if o.kind in {"data-quality", "data-drift", "prediction-drift"}] == []


def test_what_one_weekend_does_is_found_on_it() -> None:
    """Saturdays: one whose inputs are elsewhere, one whose labels are turned round, one with a third of its traffic."""
    saturdays = {16: ("data-drift", "1d"), 23: ("quality", "1d"), 30: ("data-quality", "pane")}
    changes = {16: {"shift": 2.0}, 23: {"wrong": 0.6}, 30: {"rows": 70}}
    assert {(35 + day) % 7 for day in saturdays} == {2}
    opened, _ = _live(_learnt(35), 5, lambda day, world: replace(world, **changes.get(day, {})))  # type: ignore[arg-type]
    for day, (kind, window) in saturdays.items():
        assert day in _day(opened, kind, window), kind


def test_working_days_that_become_like_weekends_are_found_by_who_knows_weekdays() -> None:
    """One look at the scatter of all days cannot tell: it is as wide as the rhythm."""

    def bad(day: int, world: World) -> World:
        return replace(world, shift=0.8) if day >= 28 else world

    knowing, _ = _live(_learnt(35), 7, bad)
    assert 28 in _day(knowing, "data-drift")
    unknowing, _ = _live(_without_weekdays(_learnt(35)), 7, bad)
    assert 28 not in _day(unknowing, "data-drift")


def test_a_restart_every_day_changes_nothing() -> None:
    assert _live(_learnt(35), 8, restarted=True) == _live(_learnt(35), 8)


def test_the_rhythm_is_part_of_a_reference_of_four_weeks_and_survives_its_file() -> None:
    reference = _learnt(35).reference
    assert reference.weekdays is not None
    assert "feature:distance" in reference.weekdays.days
    assert "feature:origin" not in reference.weekdays.days  # the same on every day
    assert reference.metrics["brier"].week
    assert decode(encode(reference), ReferenceStatistics) == reference
    assert _learnt(14).reference.weekdays is None
    assert not any(level.week for level in _learnt(14).reference.metrics.values())


# ------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(("known_days", "learnt"), [(35, True), (28, True), (14, False), (7, False)])
def test_weekdays_of_scores_need_weeks_with_scores(known_days: int, learnt: bool) -> None:
    """The reference may be five weeks long and hold scores of the last one only."""
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(35), 300)
    weekend = np.isin(days % 7, [2, 3])
    codes = (rng.random(len(days)) < np.where(weekend, 0.7, 0.3)).astype(np.int64)
    learner = WeekLearner(_learnt(14), days * DAY + 1)
    coded = Coded("prediction", codes, 2, days >= 35 - known_days)
    learner.take(coded, {drift_key("prediction", "1d", "excess"): 1.0})
    assert bool(learner.days) == learnt


def _panes(weeks: int, effects: list[float], noise: float, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    days = np.arange(weeks * 7) + 4  # a Monday
    values = 0.8 + np.array(effects)[np.arange(weeks * 7) % 7] + rng.normal(0, noise, weeks * 7)
    return weekly(days * DAY, values, np.where(np.arange(weeks * 7) % 7 < 5, 500.0, 100.0))


def test_weekdays_are_told_and_cancel_out_over_the_events_of_a_week() -> None:
    true = [0.0, 0.0, 0.0, 0.0, 0.0, -0.1, -0.1]
    found = np.array(_panes(8, true, 0.01, 1))
    assert found[5:].mean() - found[:5].mean() == pytest.approx(-0.1, abs=0.02)
    assert 500 * found[:5].sum() + 100 * found[5:].sum() == pytest.approx(0.0, abs=1e-9)
    assert _panes(3, true, 0.01, 1) == []


def test_days_that_differ_by_chance_have_no_weekdays() -> None:
    """In any order: at most as often as it may happen (1 in 100; 5 in 200 would happen once in 19)."""
    assert sum(bool(_panes(4, [0.0] * 7, 0.02, seed)) for seed in range(200)) <= 6


def test_whole_weeks_know_no_weekday() -> None:
    level = MetricReference(
        value=0.8, pane_value=0.79, spread=0.01, scale=0.4, panes=28, n=2800, week=[0.01] * 5 + [-0.1] * 2
    )
    saturday = 2 * DAY
    for start in range(0, 7 * DAY, DAY):
        assert shifted(level, start, start + 7 * DAY) is level
    on_saturday = shifted(level, saturday, saturday + DAY)
    assert (on_saturday.value, on_saturday.pane_value) == (pytest.approx(0.7), pytest.approx(0.69))
    weekend_and_week = shifted(level, saturday, saturday + 9 * DAY)
    assert weekend_and_week.value - level.value == pytest.approx(-0.2 / 9)
    assert on_weekday(level, saturday, saturday + DAY).n < level.n
