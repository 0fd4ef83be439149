"""Bounds move one way: more evidence and larger budgets never widen them; explicit ones are what people wrote."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from schemas.events import Observation
from schemas.reference import MetricReference
from schemas.specification import Specification
from streams import calibration as cal
from streams.drift.scatter import drift_key
from streams.drift.subjects import subjects
from streams.panes import PanePlan
from tests.support.plans import plan, reference, specification
from tests.support.simulate import World, learn, live, watching, worse

SIZES = (100, 140, 300, 1_000, 5_000, 40_000, 10**6)
CHANCES = (1e-12, 1e-8, 1e-5, 1e-3, 1e-2)
LEVELS = st.builds(
    MetricReference,
    value=st.floats(0.55, 0.95),
    spread=st.floats(0.0, 0.05),
    scale=st.floats(0.05, 1.0),
    pane_value=st.none() | st.floats(0.55, 0.95),
    panes=st.integers(0, 200),
    n=st.integers(100, 10**6),
    memory=st.floats(0.0, 0.9),
)
NAMES = st.sampled_from(["roc_auc", "accuracy", "brier", "mae", "bias", "recall[b]"])


def _distance(bound: cal.Bound) -> float:
    return abs(bound.threshold - bound.reference)


@given(NAMES, LEVELS, st.integers(1, 40))
def test_quality_bounds_never_widen_with_events_or_with_the_budget(
    name: str, level: MetricReference, panes: int
) -> None:
    by_n = [_distance(cal.quality_bound(name, level, n=n, panes=panes, p=1e-4)) for n in SIZES]
    by_p = [_distance(cal.quality_bound(name, level, n=500, panes=panes, p=p)) for p in CHANCES]
    for distances in (by_n, by_p):
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(distances))
        assert all(math.isfinite(distance) and distance > 0 for distance in distances)


@given(st.floats(0.0, 0.5), st.floats(1.0, 9.0), st.integers(200, 10**6))
def test_drift_bounds_never_widen_with_events_or_with_the_budget(excess: float, freedom: float, m: int) -> None:
    p = plan()
    own = {drift_key("feature:distance", "1d", "excess"): excess, drift_key("feature:distance", "1d", "dof"): freedom}
    told = PanePlan(p.spec, msgspec.structs.replace(p.reference, drift=own))
    subject = replace(subjects(told)[0], reference=np.full(10, m // 10))
    by_n = [cal.drift_bound(told, subject, "1d", n=n, p=1e-4).threshold for n in SIZES]
    by_p = [cal.drift_bound(told, subject, "1d", n=500, p=p).threshold for p in CHANCES]
    for thresholds in (by_n, by_p):
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(thresholds))


def test_a_larger_budget_is_a_larger_chance_of_every_test() -> None:
    budgets = ("1/3650d", "1/365d", "1/30d", "1/7d")
    chances = [cal.Allowance.of(plan(budget=budget), subjects=4, segments=2) for budget in budgets]
    for less, more in pairwise(chances):
        assert all(getattr(less, name) <= getattr(more, name) for name in less.__dataclass_fields__)
    assert chances[0].primary < chances[-1].primary


@given(st.floats(0.0, 0.4), st.sampled_from([1e-2, 1e-4]))
def test_the_p_value_of_a_crossing_is_where_its_bound_would_be(loss: float, allowed: float) -> None:
    level = MetricReference(value=0.8, spread=0.01, scale=0.4, panes=20, n=20_000)

    def at(p: float) -> cal.Bound:
        return cal.quality_bound("accuracy", level, n=500, panes=1, p=p)

    value = 0.8 - loss
    if not at(allowed).crossed(value):
        return
    found = cal.least_p(at, value, allowed)
    assert cal.SMALLEST_P <= found <= allowed * 1.001
    assert at(found * 1.01).crossed(value)
    assert found == cal.SMALLEST_P or not at(found * 0.98).crossed(value)


def test_a_bound_that_cannot_be_crossed_at_a_small_chance_has_its_p_value_too() -> None:
    wide = cal.Bound(1.0, 0.5, 0.0, False)
    assert cal.least_p(lambda p: wide if p > 1e-3 else None, 0.2, 1e-2) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("usual", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("n", [100, 1_000])
def test_coverage_that_halves_by_chance_does_not_cross(usual: float, n: int) -> None:
    bound = cal.coverage_bound(usual, 0.5, n=n, p=1e-4)
    count = math.ceil(bound.threshold * n) - 1  # the largest number of labels that crosses
    assert stats.binom.cdf(count, n, usual) <= 1e-4 * 1.0001
    assert bound.threshold <= usual / 2


def test_a_cumulative_sum_is_as_likely_as_its_limit_says() -> None:
    for p in (1e-2, 1e-4, 1e-7):
        limit = cal.cusum_limit(p, 0.5)
        assert cal.cusum_p(limit, panes=100, allowance=0.5, unsure=0.01) == pytest.approx(p, rel=0.02)
    # A reference that may be off explains any sum, however large.
    assert cal.cusum_p(50.0, panes=100, allowance=0.5, unsure=0.5) > 0.01


@given(st.floats(-3.0, 20.0), LEVELS)
def test_a_large_loss_counts_as_what_is_as_unlikely(z: float, level: MetricReference) -> None:
    """Never for more than it is, never for less than where taming begins, and more for a larger loss."""

    def at(p: float) -> cal.Bound:
        return cal.quality_bound("brier", level, n=400, panes=1, p=p)

    own = at(1e-3).error
    reference_ = at(1e-3).reference
    tamed = [cal.tame(each, reference_ + each * own, at) for each in (z, z + 1)]
    assert tamed[0] == z if z <= cal.TAME else cal.TAME <= tamed[0] <= z
    assert tamed[1] >= tamed[0] - 1e-3


# --------------------------------------------------------------------------------------- people's own thresholds


@pytest.mark.parametrize(
    ("reference_", "threshold", "upper", "crosses", "stays"),
    [(0.8, 0.7, False, 0.69, 0.71), (0.2, 0.3, True, 0.31, 0.29), (0.65, 0.7, False, 0.69, 0.71)],
)
def test_an_explicit_threshold_is_where_it_was_written(
    reference_: float, threshold: float, upper: bool, crosses: float, stays: float
) -> None:
    bound = cal.explicit_bound(reference_, threshold, upper=upper)
    assert bound.crossed(crosses)
    assert not bound.crossed(stays)
    assert bound.threshold == threshold


def _with(spec: Specification, **alarms: object) -> Specification:
    return msgspec.structs.replace(spec, alarms=msgspec.structs.replace(spec.alarms, **alarms))


CALM = World()


def _opened(spec: Specification, *, days: int = 12, bad: World = CALM, seed: int = 5) -> list[Observation]:
    rng = np.random.default_rng(seed)
    learnt = learn(spec, CALM, 14, rng)
    return [o for o in live(learnt, CALM, days, rng, bad=bad, since=6) if o.status == "opened"]


def test_a_set_threshold_takes_the_place_of_the_calibrated_one() -> None:
    """A loss that calibration finds stays below a threshold far away, and a threshold near by crosses at once."""
    bad = worse(CALM, wrong=0.3)
    found = {(o.subject, o.window) for o in _opened(watching(), bad=bad) if o.segment is None}
    assert ("accuracy", "1d") in found
    far = _opened(_with(watching(), thresholds={"accuracy": 0.3, "brier": 0.6, "roc_auc": 0.2}), bad=bad)
    assert [o for o in far if o.kind == "quality" and o.segment is None and o.window != "adwin"] == []
    near = [o for o in _opened(_with(watching(), thresholds={"accuracy": 0.99})) if o.subject == "accuracy"]
    assert {o.window for o in near if o.segment is None} >= {"1d", "7d"}
    assert all(o.threshold == 0.99 and "p" not in o.evidence for o in near if o.segment is None)


def test_a_set_psi_holds_for_what_has_none_of_its_own() -> None:
    bad = worse(CALM, shift=1.0)
    assert {o.subject for o in _opened(watching(), bad=bad) if o.kind == "data-drift"} == {"feature:distance"}
    high = _opened(_with(watching(), thresholds={"psi": 50.0}), bad=bad)
    assert [o for o in high if o.evidence.get("statistic") == "psi"] == []
    low = _opened(_with(watching(), thresholds={"psi": 50.0, "feature:origin": 1e-6}))
    assert {o.subject for o in low if o.evidence.get("statistic") == "psi"} == {"feature:origin"}


def test_windows_with_fewer_labels_than_asked_for_say_nothing() -> None:
    bad = worse(CALM, wrong=0.3)
    assert [o for o in _opened(watching(), bad=bad) if o.kind == "quality"]
    strict = _with(watching(windows=("1d",)), minimum_labelled=5_000)
    assert [o for o in _opened(strict, bad=bad) if o.kind == "quality"] == []


def test_references_of_earlier_releases_have_the_customary_correlation() -> None:
    assert reference().metrics["roc_auc"].memory == pytest.approx(1 / 3)
    assert specification().alarms.minimum_labelled == 100
