from __future__ import annotations

import threading

import pytest

from agents.monitoring.registry_view import FilledPlans, LightPlan, Once
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification
from streams.panes import PanePlan
from tests.support.plans import prediction, reference, specification


def _heavy(plan: PanePlan) -> list[str]:
    return sorted(name for name in vars(plan) if name in {"spec", "reference", "slots", "features", "_numeric"})


def test_a_light_plan_counts_as_the_plan_and_keeps_little() -> None:
    spec, statistics = specification(), reference()
    loads: list[int] = []

    def load() -> tuple[Specification, ReferenceStatistics]:
        loads.append(1)
        return spec, statistics

    plain = PanePlan(spec, statistics)
    filled = FilledPlans(1)
    light = LightPlan(load, filled)
    assert _heavy(light)
    other = LightPlan(load, filled)
    assert not _heavy(light)
    assert len(loads) == 2
    assert (light.layout, light.size, light.pane_ms) == (plain.layout, plain.size, plain.pane_ms)
    assert len(loads) == 2

    p = prediction("1", 5, distance=120.0, probability=0.7)
    assert light.traffic(p) == plain.traffic(p)
    assert light.labelled(light.compact(p), 1, 99) == plain.labelled(plain.compact(p), 1, 99)
    assert len(loads) == 3
    assert _heavy(light)
    assert not _heavy(other)
    assert (other.slots, other.features, other.reference) == (plain.slots, plain.features, statistics)


def test_what_a_plan_never_had_is_missing() -> None:
    light = LightPlan(lambda: (specification(), reference()), FilledPlans(1))
    with pytest.raises(AttributeError, match="nonsense"):
        light.nonsense  # noqa: B018


def test_plans_can_be_used_while_others_take_their_place() -> None:
    filled = FilledPlans(1)
    plans = [LightPlan(lambda: (specification(), reference()), filled) for _ in range(2)]
    p = prediction("1", 5, distance=120.0, probability=0.7)
    expected = plans[0].traffic(p)
    found: list[bool] = []

    def use(plan: LightPlan) -> None:
        found.append(all(plan.traffic(p) == expected for _ in range(50)))

    threads = [threading.Thread(target=use, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True, True]


def test_whoever_comes_while_the_registry_is_read_again_waits_for_it() -> None:
    reading, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def read() -> None:
        reading.set()
        assert go.wait(30)
        calls.append(1)

    once = Once(read)
    seen: list[int] = []
    first = threading.Thread(target=once)

    def come_later() -> None:
        once()
        seen.append(len(calls))

    second = threading.Thread(target=come_later)
    first.start()
    assert reading.wait(30)
    second.start()
    assert not seen
    go.set()
    for thread in (first, second):
        thread.join(30)
    assert (calls, seen) == ([1], [1])
