"""Estimates of one version: made, kept while labels are awaited, reconciled; bounded and the same after a restart."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.specification import Specification
from streams.estimate.estimates import MOST_PENDING, Estimated, Estimates, EstimateState
from streams.estimate.model import estimable
from streams.estimate.trust import Errors
from streams.metrics.compute import compute
from streams.packed import add_packed
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.plans import specification
from tests.support.replay import DAY
from tests.support.simulate import World, day_of, learn, record_of, watching

TASKS = ("binary", "regression")


def _plan(task: str = "binary", *, wobble: float = 0.2, seed: int = 1, spec: Specification | None = None) -> PanePlan:
    return learn(spec or watching(task), World(wobble=wobble), 14, np.random.default_rng(seed))


def _counts(plan: PanePlan, world: World, seed: int) -> NDArray[np.int64]:
    record = record_of(plan, day_of(world, np.random.default_rng(seed), plan.task), 0)
    total = np.zeros(plan.size, dtype=np.int64)
    add_packed(total, [record.panes[0].counters])
    return total


def _make(estimates: Estimates, window: Window, counts: NDArray[np.int64]) -> Estimated | None:
    return estimates.make([(window, counts)])[0]


def _day(number: int) -> Window:
    return Window("1d", number * DAY, (number + 1) * DAY)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (specification(watch=("brier", "calibration_error", "true_positives")), ("roc_auc", "brier")),
        (specification("multiclass", watch=("f1_macro", "log_loss")), ("accuracy",)),
        (specification("regression", watch=("bias", "r2", "quantile_loss[0.9]")), ("mae", "quantile_loss[0.9]")),
    ],
)
def test_only_what_scores_can_tell_is_estimated(spec: Specification, names: tuple[str, ...]) -> None:
    assert estimable(spec) == names


@pytest.mark.parametrize("task", TASKS)
def test_estimates_lie_near_what_comes_true(task: str) -> None:
    plan = _plan(task)
    estimates = Estimates(plan)
    held: list[bool] = []
    for number in range(40):
        counts = _counts(plan, World(wobble=0.2, rows=1500), 100 + number)
        made = _make(estimates, _day(number), counts)
        assert made is not None
        realised = compute(plan, counts)
        assert set(made.guesses) == set(estimable(plan.spec))
        for name, (low, high) in made.intervals.items():
            assert low <= made.guesses[name].value <= high
            held.append(low <= realised[name] <= high)
        back = estimates.reconcile(_day(number), dict(realised), int(counts[plan.slots["labelled"]][0]))
        assert back is not None
        assert back.guesses == made.guesses
        estimates.learn((number + 1) * DAY, counts, usable=True)
    assert np.mean(held) >= 0.9
    assert (estimates.trust() or 0.0) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_trust_goes_when_the_labels_say_otherwise(task: str) -> None:
    plan = _plan(task)
    estimates = Estimates(plan)
    assert (estimates.trust() or 0.0) > 0.5
    rng = np.random.default_rng(7)
    for number in range(12):  # each day another concept: no score tells, nothing can be learnt
        counts = _counts(plan, World(wrong=float(rng.uniform(0.0, 0.5)) if number % 2 else 0.0), 200 + number)
        _make(estimates, _day(number), counts)
        estimates.reconcile(_day(number), dict(compute(plan, counts)), int(counts[plan.slots["labelled"]][0]))
        estimates.learn((number + 1) * DAY, counts, usable=True)
    assert (estimates.trust() or 0.0) < 0.5


def test_nothing_is_made_where_nobody_asks_or_nobody_can_tell() -> None:
    plan = _plan()
    counts = _counts(plan, World(), 3)
    off = msgspec.structs.replace(plan.spec, alarms=msgspec.structs.replace(plan.spec.alarms, estimate=False))
    bare = msgspec.structs.replace(plan.reference, estimate=None)
    for silent in (PanePlan(off, plan.reference), PanePlan(plan.spec, bare)):
        estimates = Estimates(silent)
        assert _make(estimates, _day(0), counts) is None
        estimates.learn(DAY, counts, usable=True)
        assert estimates.snapshot() is None
        assert estimates.trust() is None
    few, unscored = counts.copy(), counts.copy()
    few[plan.slots["predicted"]] = 5
    unscored[plan.slots["scores"]] //= 4
    for empty in (few, unscored, np.zeros_like(counts)):
        assert _make(Estimates(plan), _day(0), empty) is None
    assert Estimates(plan).snapshot() is None


@pytest.mark.parametrize("task", TASKS)
def test_a_sum_of_panes_is_estimated_as_the_whole(task: str) -> None:
    plan = _plan(task)
    parts = [_counts(plan, World(rows=300), seed) for seed in range(5)]
    one = _make(Estimates(plan), _day(0), sum(parts[1:], parts[0].copy()))
    other = _make(Estimates(plan), _day(0), sum(reversed(parts[:-1]), parts[-1].copy()))
    assert one is not None
    assert one == other


def test_state_is_bounded_however_late_labels_are() -> None:
    spec = specification(windows=("1h", "6h", "1d"), delay="30d", watch=("brier", "accuracy"))
    plan = _plan(spec=spec)
    counts = _counts(plan, World(rows=500), 5)
    estimates = Estimates(plan)
    hour = 3_600_000
    sizes = []
    reconciled = 0
    for number in range(24 * 40):
        end = (number + 1) * hour
        for name, length in (("1h", hour), ("6h", 6 * hour), ("1d", DAY)):
            _make(estimates, Window(name, end - length, end), counts)
        closed = end - 30 * DAY
        if closed > 0:
            for name, length in (("1h", hour), ("6h", 6 * hour), ("1d", DAY)):
                window = Window(name, closed - length, closed)
                reconciled += estimates.reconcile(window, dict(compute(plan, counts)), 500) is not None
            estimates.learn(closed, counts, usable=True)
        if number % 50 == 0:
            state = estimates.snapshot()
            if state is None:
                continue
            assert len(state.waiting) <= MOST_PENDING + 3
            sizes.append(len(msgspec.msgpack.encode(state)))
    assert reconciled > 0
    assert len(sizes) > 10
    assert max(sizes) < 12_000


_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["make", "reconcile", "learn"]), st.integers(0, 5), st.integers(0, 3)), max_size=20
)


@pytest.fixture(scope="module")
def pool() -> dict[str, tuple[PanePlan, list[NDArray[np.int64]]]]:
    worlds = (World(), World(wrong=0.4), World(rows=30), World(wobble=2.0))
    out = {}
    for task in TASKS:
        plan = _plan(task)
        out[task] = (plan, [_counts(plan, world, 50 + index) for index, world in enumerate(worlds)])
    return out


@settings(max_examples=40, deadline=None)
@given(_ACTIONS, st.sampled_from(TASKS))
def test_goes_on_from_a_snapshot_as_if_nothing_had_been(
    pool: dict[str, tuple[PanePlan, list[NDArray[np.int64]]]], actions: list[tuple[str, int, int]], task: str
) -> None:
    plan, worlds = pool[task]
    steady, restarted = Estimates(plan), Estimates(plan)
    for action, day, world in actions:
        counts = worlds[world]
        results = []
        for one in (steady, restarted):
            if action == "make":
                results.append(_make(one, _day(day), counts))
            elif action == "reconcile":
                results.append(one.reconcile(_day(day), dict(compute(plan, counts)), int(counts[1])))
            else:
                one.learn((day + 1) * DAY, counts, usable=day != 3)
                results.append(None)
        assert results[0] == results[1]
        for made in filter(None, results):
            numbers = [number for guess in made.guesses.values() for number in guess]
            numbers += [bound for interval in made.intervals.values() for bound in interval]
            assert np.isfinite(numbers).all()
        state = restarted.snapshot()
        if state is not None:
            data = msgspec.msgpack.encode(state)
            restarted = Estimates(plan, msgspec.msgpack.decode(data, type=EstimateState))
    assert msgspec.msgpack.encode(steady.snapshot()) == msgspec.msgpack.encode(restarted.snapshot())


@given(
    st.lists(
        st.tuples(*(st.floats(-1e3, 1e3) for _ in range(2)), st.none() | st.floats(-10, 10), st.floats(0, 10)),
        max_size=40,
    )
)
def test_trust_is_a_share_whatever_comes(seen: list[tuple[float, float, float | None, float]]) -> None:
    errors = Errors()
    assert errors.trust is None
    for estimate, realised, level, variance in seen:
        errors.add(estimate=estimate, realised=realised, level=level, variance=variance, chance=variance / 2)
        assert 0.0 <= errors.coverage <= 1.0 + 1e-9
        assert 0.0 <= errors.explained <= 1.0
        assert errors.trust is None or 0.0 <= errors.trust <= 1.0
        assert 0.0 <= errors.half_width(variance) < np.inf


def test_trust_by_its_definition() -> None:
    def after(pairs: list[tuple[float, float]]) -> Errors:
        errors = Errors()
        for estimate, realised in pairs:
            errors.add(estimate=estimate, realised=realised, level=0.8, variance=4e-4, chance=1e-4)
        return errors

    still = after([(0.8, 0.8 + sign * 0.01) for sign in (1, -1) * 10])
    assert still.trust == pytest.approx(1.0)
    follows = after([(0.8 - drop, 0.8 - drop) for drop in (0.0, 0.05, 0.1, 0.15) * 5])
    assert follows.explained == pytest.approx(1.0)
    blind = after([(0.8, 0.8 - drop) for drop in (0.0, 0.05, 0.1, 0.15) * 5])
    assert blind.explained == 0.0
    assert blind.scale > still.scale
    half = after([(0.8 - drop / 2, 0.8 - drop) for drop in (0.0, 0.05, 0.1, 0.15) * 5])
    assert half.explained == pytest.approx(0.75, abs=0.02)
