"""Categories that came or went, values out of range, features that stand still or come in another unit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from schemas.events import Observation
from streams.detectors import Detectors
from streams.drift.shapes import Sizes, Usual, absence_log_p
from streams.panes import COARSE, PanePlan
from streams.windows import Window
from tests.support.plans import plan
from tests.support.simulate import World, learn, watching

DAY = 86_400_000
Counts = NDArray[np.int64]


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    return learn(watching(), World(), 14, np.random.default_rng(1))


def usual(p: PanePlan, n: int = 1000) -> Counts:
    """A window as the reference would have it."""
    total = np.zeros(p.size, np.int64)
    for name, slots in p.features.items():
        reference = p.reference.features[name]
        counts = np.array(reference.counts)
        at = slice(slots.bins.start, slots.bins.start + len(counts))
        total[at] = np.round(n * counts / counts.sum())
    total[p.slots["predicted"]] = n
    return total


def days(p: PanePlan, *totals: Counts, first: int = 0) -> list[Observation]:
    detectors = Detectors("m", 1, p)
    out: list[Observation] = []
    for day, total in enumerate(totals, start=first):
        window = Window("1d", day * DAY, (day + 1) * DAY)
        out += detectors.traffic(window, total, window.end_ms)
    return out


def changed(p: PanePlan, feature: str, bins: dict[int, int], **rest: int) -> Counts:
    """A usual window in which one feature has these counts (negative bins from the end) and nothing else."""
    total = usual(p)
    slots = p.features[feature]
    total[slots.bins] = 0
    for at, count in bins.items():
        total[slots.bins][at] = count
    for name, count in rest.items():
        total[getattr(slots, name)] = count
    return total


def test_a_usual_window_says_nothing(learnt: PanePlan) -> None:
    assert days(learnt, *[usual(learnt)] * 5) == []


@pytest.mark.parametrize(
    ("bins", "statistic"),
    [({0: 480, 1: 300, 2: 190, 3: 30}, "new_rate"), ({0: 500, 1: 500}, "vanished_share")],
)
def test_categories_that_come_and_go_are_drift(learnt: PanePlan, bins: dict[int, int], statistic: str) -> None:
    (first, *_) = days(learnt, usual(learnt), usual(learnt), usual(learnt), changed(learnt, "origin", bins))
    assert (first.kind, first.subject, first.status) == ("data-drift", "feature:origin", "opened")
    assert statistic in {first.evidence["statistic"], *first.evidence.get("also", {})}


def test_values_out_of_range_are_drift_although_no_share_moved(learnt: PanePlan) -> None:
    total = usual(learnt)
    total[learnt.features["distance"].high] = 80
    (found,) = days(learnt, total)
    assert (found.kind, found.evidence["statistic"], found.evidence["above"]) == ("data-drift", "out_of_range_rate", 80)
    assert found.value == pytest.approx(0.08, abs=0.001)
    assert found.severity == "warning"


def test_a_feature_that_stands_still_is_broken(learnt: PanePlan) -> None:
    calm = [usual(learnt)] * 3
    found = days(learnt, *calm, changed(learnt, "distance", {4: 1000}))
    (broken,) = [o for o in found if o.kind == "data-quality"]
    assert (broken.evidence["statistic"], broken.severity) == ("stuck_share", "critical")
    assert broken.value == 1.0


def test_a_calm_day_is_not_stuck(learnt: PanePlan) -> None:
    """A day of weather lies in one decile of its month; its values differ."""
    calm = changed(learnt, "distance", {4: 1000}, total=1000 * COARSE // 3 + 1)
    assert {o.kind for o in days(learnt, *[usual(learnt)] * 3, calm)} == {"data-drift"}


def test_what_a_window_of_the_reference_showed_is_not_stuck(learnt: PanePlan) -> None:
    drift = dict(learnt.reference.drift)
    drift["feature:distance@1d:top"] = 0.95
    usually = PanePlan(learnt.spec, msgspec.structs.replace(learnt.reference, drift=drift))
    total = changed(usually, "distance", {4: 1000})
    assert {o.kind for o in days(usually, *[usual(usually)] * 3, total)} == {"data-drift"}
    assert 0.05 < learnt.reference.drift["feature:distance@1d:top"] < 0.3


def test_a_feature_in_another_unit_is_broken(learnt: PanePlan) -> None:
    calm = [usual(learnt)] * 3
    scaled = changed(learnt, "distance", {8: 20, -1: 980}, high=980, total=1000 * 40 * COARSE)
    (broken,) = [o for o in days(learnt, *calm, scaled) if o.kind == "data-quality"]
    assert (broken.evidence["statistic"], broken.severity) == ("scale_shift", "critical")
    assert broken.value == pytest.approx(40)


def test_a_season_is_no_other_unit(learnt: PanePlan) -> None:
    summer = changed(learnt, "distance", {8: 100, -1: 900}, high=900, total=1000 * 4 * COARSE)
    assert {o.kind for o in days(learnt, *[usual(learnt)] * 3, summer)} == {"data-drift"}


def test_broken_from_the_first_windows_on_is_skew_and_keeps_its_name(learnt: PanePlan) -> None:
    total = changed(learnt, "distance", {4: 600}, missing=400)
    found = [o for o in days(learnt, total, total, total, *[usual(learnt)] * 3) if o.kind != "data-drift"]
    assert [(o.kind, o.status) for o in found] == [("skew", "opened"), ("skew", "closed")]
    later = days(learnt, *[usual(learnt)] * 3, total)
    assert [o.kind for o in later if o.kind != "data-drift"] == ["data-quality"]


def test_a_kind_outlives_a_restart(learnt: PanePlan) -> None:
    total = changed(learnt, "distance", {4: 600}, missing=400)
    detectors = Detectors("m", 1, learnt)
    assert list(detectors.traffic(Window("1d", 0, DAY), usual(learnt), DAY)) == []
    detectors = Detectors.from_snapshot("m", 1, learnt, detectors.snapshot())
    (second,) = detectors.traffic(Window("1d", DAY, 2 * DAY), changed(learnt, "distance", {4: 0}, missing=1000), DAY)
    assert second.kind == "skew"
    detectors = Detectors.from_snapshot("m", 1, learnt, detectors.snapshot())
    assert {o.kind for o in detectors.traffic(Window("1d", 2 * DAY, 3 * DAY), total, 3 * DAY)} == {"data-drift"}
    assert {key.kind for key in detectors.watches.open} == {"skew", "data-drift"}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("varies", [0.0, 0.01])
def test_the_chance_of_absence_is_that_of_a_beta_binomial(share: float, varies: float) -> None:
    n, m = Usual(varies, 14).sizes(200, 5000)
    assert (n, m) == (
        (200, 5000) if not varies else (pytest.approx(1 / 0.015), pytest.approx(1 / (0.0002 + 0.01 / 14)))
    )
    expected = stats.betabinom.logpmf(0, round(n), share * m, (1 - share) * m)
    assert absence_log_p(share, Sizes(round(n), m)) == pytest.approx(expected, rel=1e-6)


def test_values_that_come_in_clusters_break_records_without_being_news() -> None:
    """A thousand flights share a few hours of weather: a new extreme of the month comes every few days."""
    p = plan()
    rng = np.random.default_rng(5)
    equipment = Detectors("m", 1, p).equipment
    shapes, table = equipment.sheet(equipment.traffic).shapes, equipment.traffic
    at = table.features.tolist().index(table.rows["feature:distance"])
    crossed, windows = {0.0: 0, 0.25: 0}, 2000
    for _ in range(windows):
        total = usual(p)
        # Four independent values a window, thirty windows of reference: 120 values, beyond them once in 60.
        total[p.features["distance"].high] = 250 * rng.binomial(4, 1 / 60)
        measured = table.measure(total)
        for varies in crossed:
            (check, *_) = shapes.of_drift(measured, at, Usual(varies, 30), 0.01)
            crossed[varies] += check.crossed
    assert crossed[0.25] <= 0.01 * windows + 5 * np.sqrt(0.01 * windows)
    assert crossed[0.0] > 3 * 0.01 * windows


def test_samples_of_the_reference_cross_no_more_often_than_allowed() -> None:
    p = plan()
    rng = np.random.default_rng(2)
    detectors = Detectors("m", 1, p)
    allowed = detectors.allowance
    shapes = detectors.equipment.sheet(detectors.equipment.traffic).shapes
    table = detectors.equipment.traffic
    windows, crossed = 4000, 0
    for _ in range(windows):
        total = usual(p)
        for name, slots in p.features.items():
            counts = np.array([*p.reference.features[name].counts, *([] if slots.numeric else [0])])
            total[slots.bins] = rng.multinomial(150, rng.dirichlet(np.maximum(counts, 0.01)))
            if slots.numeric:
                total[slots.high] = rng.binomial(150, 1 / 1001)
        measured = table.measure(total)
        for at in range(len(table.features)):
            for check in (
                *shapes.of_drift(measured, at, Usual(), 0.01),
                *shapes.of_quality(measured, at, Usual(), 0.01),
            ):
                crossed += check.crossed
    # Each of the five checks with a chance may cross once in a hundred windows; 5 standard deviations of a binomial.
    looks = windows * 5
    assert crossed <= 0.01 * looks + 5 * np.sqrt(0.01 * looks)
    assert 0 < allowed.shape < allowed.unusable


@pytest.mark.parametrize(("slot", "said"), [("missing", "absent"), ("invalid", "wrong type")])
def test_a_feature_that_is_not_what_the_specification_says_is_named(learnt: PanePlan, slot: str, said: str) -> None:
    found = days(learnt, *[usual(learnt)] * 3, changed(learnt, "distance", {}, **{slot: 1000}))
    (broken,) = [o for o in found if o.kind == "data-quality"]
    assert (broken.severity, broken.evidence["schema"]) == ("critical", said)
    half = days(learnt, *[usual(learnt)] * 3, changed(learnt, "distance", {4: 500}, **{slot: 500}))
    assert all("schema" not in o.evidence for o in half)
