"""However much data there is: less than the smallest effect is no news. The numbers are those of the docs."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from schemas.events import Kind
from schemas.reference import MetricReference
from schemas.specification import DriftMeasure
from streams import calibration as cal
from streams.detection import Key, Open
from streams.detectors import Detectors
from streams.drift.delays import DELAYS, UsualDelay, delay_bound
from streams.drift.shapes import Sizes, _rate_bound, _vanished_bound
from streams.drift.subjects import subjects
from streams.drift.volume import VolumeState, learn_volume, volume_bound
from streams.packed import unpack_counters
from streams.panes import PanePlan
from streams.versions import Versions
from streams.windows import PANE, Window
from tests.support.plans import plan
from tests.support.replay import DAY
from tests.support.simulate import World, day_of, learn, record_of, watching
from tests.unit.streams.drift.test_delays import pane_of as late

EVER = 10**12
"""Events of which chance explains nothing."""
MOST_P = 0.05
"""The loosest that any test may be."""
LEVEL = MetricReference(value=0.8, spread=0.0, scale=0.4, n=EVER, panes=10**6)


def distance(bound: cal.Bound | None) -> float:
    assert bound is not None
    return abs(bound.threshold - bound.reference)


@pytest.mark.parametrize(
    ("metric", "least"),
    [("roc_auc", 0.01), ("accuracy", 0.01), ("r2", 0.01), ("brier", 0.016), ("mae", 0.016), ("bias", 0.008)],
)
def test_quality_has_to_lose_a_point_or_two_percent(metric: str, least: float) -> None:
    found = distance(cal.quality_bound(metric, LEVEL, n=EVER, panes=10**6, p=MOST_P))
    assert found == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(
    ("measure", "least"),
    [("psi", 0.05), ("chi2", 0.05), ("jensen_shannon", 0.08), ("ks", 0.08), ("wasserstein", 0.15)],
)
def test_distributions_have_to_move(measure: DriftMeasure, least: float) -> None:
    spec = watching(windows=("1d",))
    spec = msgspec.structs.replace(spec, alarms=msgspec.structs.replace(spec.alarms, drift=measure))
    learnt = learn(spec, World(rows=4_000), 14, np.random.default_rng(1))
    plan = PanePlan(spec, msgspec.structs.replace(learnt.reference, drift={}))
    numeric = next(subject for subject in subjects(plan) if subject.name == "feature:distance")
    assert numeric.measure == measure
    assert distance(cal.drift_bound(plan, numeric, "1d", n=EVER, p=MOST_P)) == pytest.approx(least, rel=1e-6)


def test_against_a_season_too() -> None:
    found = cal.distance_bound(10, EVER, EVER, excess=0.0, dof=9.0, p=MOST_P)
    assert distance(found) == pytest.approx(0.05)


def test_values_have_to_get_lost_to_a_point() -> None:
    learnt = learn(watching(windows=("1d",)), World(rows=4_000), 14, np.random.default_rng(1))
    plan = PanePlan(learnt.spec, msgspec.structs.replace(learnt.reference, drift={}))
    numeric = next(subject for subject in subjects(plan) if subject.name == "feature:distance")
    assert distance(cal.unusable_bound(plan, numeric, "1d", n=10**9, p=MOST_P)) == pytest.approx(0.01)


def test_categories_and_ranges_have_to_change_by_a_point_or_two() -> None:
    sizes = Sizes(1e9, 1e9)
    assert distance(_rate_bound(0.001, sizes, MOST_P)) == pytest.approx(0.01)
    assert distance(_vanished_bound(sizes, 3, MOST_P)) == pytest.approx(0.02)


@pytest.mark.parametrize(("usual_s", "least_s"), [(36_000.0, 18_000.0), (60.0, 864.0)])
def test_labels_have_to_take_half_as_long_again_and_a_hundredth_of_a_pane(usual_s: float, least_s: float) -> None:
    assert distance(delay_bound([usual_s] * 14, 86_400.0, MOST_P)) == pytest.approx(least_s)


def test_half_of_the_labels_have_to_stay_away() -> None:
    assert distance(cal.coverage_bound(0.9, 0.5, n=10**9, p=MOST_P)) == pytest.approx(0.45)


@pytest.mark.parametrize("part", [0.51, 0.6, 0.9])
def test_half_of_the_volume_has_to_stay_away(part: float) -> None:
    """Of a million a day, steady for a year, 10 % less are unheard of; they are no collapse."""
    state = VolumeState()
    for day in range(365):
        learn_volume(state, day * DAY, DAY, 10**6 + day % 5)
    bound = volume_bound(state, 365 * DAY, DAY, MOST_P)
    assert bound is not None
    assert bound.threshold == pytest.approx(500_000, rel=0.001)
    assert not bound.crossed(part * 10**6)
    assert bound.crossed(0.49 * 10**6)


# --------------------------------------------------------------------------- what is learnt while something is wrong


class _Told(Versions):
    """Versions that had so many predictions in every pane."""

    n = 1000

    def predicted(self, start_ms: int, end_ms: int, segment: str = "") -> int:
        return self.n


@pytest.mark.parametrize("segment", ["", "origin=JFK"])
def test_panes_that_collapsed_do_not_become_usual(segment: str) -> None:
    volume = VolumeState(pane_ms=DAY)
    packed = b""
    for day in range(50):
        versions = _Told([], volume, packed)
        versions.n = 1000 if day < 28 else 20
        versions.judged(day * DAY, collapsed=day >= 28, segment=segment)
        versions.learn()
        packed = versions.segments.packed()
    known = _Told([], volume, packed)
    bound = volume_bound(known.segments.of(segment) if segment else volume, 50 * DAY, DAY, 1e-3)
    assert bound is not None
    assert bound.reference == pytest.approx(1000, rel=1e-3)


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    return learn(watching(windows=("1d",)), World(), 14, np.random.default_rng(1))


@pytest.mark.parametrize("kind", [None, "quality", "calibration", "estimated-quality", "data-drift"])
def test_what_is_learnt_of_quality_in_the_first_weeks_waits_while_it_is_alarmed(
    kind: Kind | None, learnt: PanePlan
) -> None:
    detectors = Detectors("m", 1, learnt)
    if kind is not None:
        detectors.watches.open[Key(kind, "brier", "", "1d")] = Open(0, "warning", 0, (0, DAY, 0.3, 0.2, 0.25, 800))
    counts = np.zeros(learnt.size, np.int64)
    record = record_of(learnt, day_of(World(), np.random.default_rng(2)), 0)
    positions, amounts = unpack_counters(record.panes[0].counters)
    counts[positions] = amounts
    for _ in detectors.pane(Window(PANE, 0, DAY), counts, DAY):
        pass
    assert len(detectors.stable.panes) == (1 if kind in {None, "data-drift"} else 0)


def test_labels_that_come_late_while_that_is_alarmed_are_not_what_is_usual() -> None:
    p = plan()
    detectors = Detectors("m", 1, p)
    for day in range(14):
        pane = Window(PANE, day * DAY, (day + 1) * DAY)
        for _ in detectors.pane(pane, late(p, 1.0 if day < 9 else 8.0), pane.end_ms):
            pass
    assert [key.kind for key in detectors.watches.open] == ["label-delay"] * 2
    assert len(detectors.delays) == 9


@pytest.mark.parametrize("open_in", [None, "", "origin=EWR"])
@pytest.mark.parametrize("known", [8, 14])
def test_labels_that_come_late_everywhere_are_said_once_and_teach_nothing(
    open_in: str | None, known: int, learnt: PanePlan
) -> None:
    detectors = Detectors("m", 1, learnt)
    usual = UsualDelay(known, math.log1p(3600.0))
    detectors.segment_delays = {"origin=EWR": (usual, usual)}
    if open_in is not None:
        for name in DELAYS:
            state = Open(0, "warning", 0, (0, DAY, 9e4, 3e3, 6e3, 800))
            detectors.watches.open[Key("label-delay", name, open_in, "pane")] = state
    total = late(learnt, 8.0)[: learnt.segment_size]
    said = [*detectors.delayed(Window(PANE, 0, DAY), {"origin=EWR": total}, DAY)]
    assert [o.status for o in said if o.status == "opened"] == (["opened"] * 2 if open_in is None else [])
    assert [one.panes for one in detectors.segment_delays["origin=EWR"]] == [known] * 2
