"""Predictions per pane against the model's own usual, and silence."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from schemas.codec import to_ms
from schemas.events import Observation
from streams.aggregate import AggregatePartition
from streams.drift.volume import VolumeState, learn_volume, phase_of, volume_bound, volume_severity
from streams.panes import PanePlan
from tests.support.replay import DAY, watermark
from tests.support.simulate import World, day_of, learn, record_of, watching

HOUR = 3_600_000


def taught(counts: list[int], pane_ms: int = DAY) -> VolumeState:
    state = VolumeState()
    for at, count in enumerate(counts):
        learn_volume(state, at * pane_ms, pane_ms, count)
    return state


@pytest.mark.parametrize(
    ("pane_ms", "phases"), [(DAY, 7), (HOUR, 168), (6 * HOUR, 28), (600_000, 168), (7 * DAY, 1), (14 * DAY, 1)]
)
def test_a_week_has_few_phases(pane_ms: int, phases: int) -> None:
    seen = {phase_of(at * pane_ms, pane_ms) for at in range(2100)}
    assert seen == set(range(phases))


def test_nothing_is_known_within_the_first_week() -> None:
    state = taught([1000] * 6)
    assert volume_bound(state, 6 * DAY, DAY, 1e-3) is None
    assert volume_bound(taught([1000] * 7), 7 * DAY, DAY, 1e-3) is not None


def test_a_quiet_weekend_is_usual_and_a_quiet_monday_is_not() -> None:
    week = [1000] * 5 + [40] * 2
    state = taught(week * 3)
    weekend, monday = (volume_bound(state, (21 + day) * DAY, DAY, 1e-3) for day in (5, 0))
    assert weekend is not None
    assert monday is not None
    assert not weekend.crossed(38)
    assert monday.crossed(40)
    assert not monday.crossed(600)
    assert weekend.crossed(0)
    assert [volume_severity(monday, value) for value in (700, 400, 0)] == ["info", "warning", "critical"]


def test_a_handful_can_never_be_missed() -> None:
    assert volume_bound(taught([3] * 28), 28 * DAY, DAY, 1e-3) is None


def test_nothing_before_the_first_prediction_and_on_days_off_teaches_nothing() -> None:
    silent = taught([0] * 365)
    assert silent == VolumeState()
    days_off = taught([0] * 100 + [500, 500, 500, 500, 500, 0, 0] * 3)
    assert sorted(days_off.phases) == sorted({phase_of((100 + day) * DAY, DAY) for day in range(5)})
    assert days_off.since_ms == 100 * DAY
    off, on = (volume_bound(days_off, (121 + day) * DAY, DAY, 1e-3) for day in (5, 0))
    assert off is None
    assert on is not None
    assert on.crossed(0)


def test_stationary_traffic_crosses_no_more_often_than_allowed() -> None:
    rng = np.random.default_rng(3)
    looks = crossed = 0
    for spread in (0.0, 0.1, 0.3):
        for _ in range(20):
            state = VolumeState()
            for day in range(60):
                mean = 200 * (0.3 if day % 7 > 4 else 1.0) * np.exp(spread * rng.normal())
                count = int(rng.poisson(mean))
                bound = volume_bound(state, day * DAY, DAY, 0.01)
                looks += bound is not None
                crossed += bound is not None and bound.crossed(count)
                learn_volume(state, day * DAY, DAY, count)
    assert looks > 2000
    assert crossed <= 0.01 * looks + 5 * np.sqrt(0.01 * looks)


def test_state_stays_small_and_survives() -> None:
    rng = np.random.default_rng(4)
    state = taught([int(rng.poisson(50)) for _ in range(3000)], HOUR)
    data = msgspec.msgpack.encode(state)
    assert len(data) < 1200
    assert msgspec.msgpack.decode(data, type=VolumeState) == state


def _volume(observations: list[Observation]) -> list[tuple[str, str, int, float | None]]:
    day = [int(o.window_end.timestamp() * 1000) // DAY for o in observations]
    return [(o.status, o.severity, at, o.value) for o, at in zip(observations, day, strict=True)]


def test_silence_is_seen_while_the_watermark_moves_and_ends_with_traffic() -> None:
    rng = np.random.default_rng(5)
    learnt = learn(watching(windows=("1d",)), World(), 14, rng)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    found: list[Observation] = []
    for day in range(20):
        if day not in {14, 15}:
            aggregate.merge(record_of(learnt, day_of(World(), rng), day))
        events = aggregate.merge(watermark((day + 1) * DAY))
        found += [e for e in events if isinstance(e, Observation) and e.subject == "volume"]
    changes = [o for o in found if o.status != "updated"]  # a second day of silence is less likely still
    assert _volume(changes) == [("opened", "critical", 15, 0.0), ("closed", "info", 18, found[-1].value)]
    assert {(o.kind, o.window) for o in found} == {("data-quality", "pane")}


def test_a_version_that_another_took_over_from_is_not_missed() -> None:
    rng = np.random.default_rng(6)
    learnt = learn(watching(windows=("1d",)), World(), 14, rng)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    found: list[Observation] = []
    for day in range(20):
        record = record_of(learnt, day_of(World(), rng), day)
        aggregate.merge(msgspec.structs.replace(record, version=1 if day < 14 else 2))
        events = aggregate.merge(watermark((day + 1) * DAY))
        found += [e for e in events if isinstance(e, Observation) and e.subject == "volume"]
    assert found == []


def _volumes(learnt: PanePlan, days: Iterable[Iterable[tuple[int, int]]]) -> list[tuple[str, int, int]]:
    """What is said of the volume of days on which versions answer so many: (status, version, day it was said)."""
    rng = np.random.default_rng(7)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    found: list[Observation] = []
    for day, answers in enumerate(days):
        for version, rows in answers:
            record = record_of(learnt, day_of(World(rows=rows), rng), day)
            aggregate.merge(msgspec.structs.replace(record, version=version))
        aggregate = AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: learnt)
        events = aggregate.merge(watermark((day + 1) * DAY))
        found += [e for e in events if isinstance(e, Observation) and e.subject == "volume"]
    return [(o.status, o.version, to_ms(o.observed_at) // DAY - 1) for o in found if o.status != "updated"]


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    return learn(watching(windows=("1d",)), World(), 14, np.random.default_rng(5))


def test_a_version_knows_from_its_first_whole_day_on_what_is_usual_of_the_model(learnt: PanePlan) -> None:
    days = [*([(1, 800)] for _ in range(14)), [(1, 400), (2, 400)], [(2, 800)], [(2, 80)], [(2, 800)]]
    assert _volumes(learnt, days) == [("opened", 2, 16)]


def test_shadows_neither_add_to_the_volume_nor_are_missed_when_they_go(learnt: PanePlan) -> None:
    alone, both, back = [(1, 800)], [(1, 800), (2, 800)], [(1, 800)]
    days = [*(alone for _ in range(14)), *(both for _ in range(5)), *(back for _ in range(5)), [(1, 80)]]
    assert _volumes(learnt, days) == [("opened", 1, 24)]


def test_a_champion_that_comes_back_is_watched_at_once(learnt: PanePlan) -> None:
    days = [
        *([(1, 800)] for _ in range(14)),
        *([(2, 800)] for _ in range(9)),
        [(2, 300), (1, 500)],
        [(1, 800)],
        [(1, 50)],
    ]
    assert _volumes(learnt, days) == [("opened", 1, 25)]


def test_half_a_collapse_of_a_shadowed_model_is_one_of_every_version_that_answers(learnt: PanePlan) -> None:
    days = [*([(1, 800)] for _ in range(14)), *([(1, 800), (2, 800)] for _ in range(3)), [(1, 70), (2, 70)]]
    assert sorted(_volumes(learnt, days)) == [("opened", 1, 17), ("opened", 2, 17)]
