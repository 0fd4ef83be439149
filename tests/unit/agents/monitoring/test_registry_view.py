from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from agents.monitoring.registry_view import LightPlan
from schemas.reference import ReferenceStatistics
from streams.panes import PanePlan
from tests.support.plans import prediction, reference, specification


def test_a_light_plan_counts_as_the_plan_and_holds_no_reference() -> None:
    spec, statistics = specification(), reference()
    loads: list[ReferenceStatistics] = []

    def load() -> ReferenceStatistics:
        loads.append(statistics)
        return statistics

    shared: dict[Hashable, Any] = {}
    plain = PanePlan(spec, statistics)
    light, other = LightPlan(spec, load, shared), LightPlan(spec, load, shared)
    assert len(loads) == 2
    assert (light.layout, light.size, light.slots, light.features) == (
        plain.layout,
        plain.size,
        plain.slots,
        plain.features,
    )
    assert light.slots is other.slots
    p = prediction("1", 5, distance=120.0, probability=0.7)
    assert light.traffic(p) == plain.traffic(p)
    assert light.labelled(light.compact(p), 1, 99) == plain.labelled(plain.compact(p), 1, 99)
    assert len(loads) == 2
    assert light.reference == statistics
    assert len(loads) == 3
    assert statistics not in vars(light).values()
