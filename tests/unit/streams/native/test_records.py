"""Records of `joined-deltas` from the native core hold what the reference's do, and are split as they are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.topics import MAX_MESSAGE_BYTES
from streams.join.batch import JoinLimits
from streams.join.deltas import Deltas, add
from streams.join.partitioning import partition_of
from streams.native.library import WHY_NOT, available
from streams.packed import decode_delta, deltas_of, unpack_counters
from tests.support.plans import plan

pytestmark = pytest.mark.skipif(not available(), reason=WHY_NOT)
PLAN = plan()


class _View:
    epoch = 1
    label_horizon_ms = 1_000

    def plan(self, model: str, version: int) -> Any:
        return PLAN

    def watched(self, model: str) -> bool:
        return False

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> tuple[int, ...]:
        return ()


def _deltas() -> Deltas:
    deltas = Deltas()
    for model in range(300):
        for version in (2, 1):
            panes = deltas.panes(f"m{model}", version, PLAN.layout)
            for segment in ("", "origin=JFK"):
                add(panes, (segment, 10, 20), {3: model + 1, 7: -(2**40), 8: 0})
    large = deltas.panes("large", 1, PLAN.layout)
    for pane in range(40):
        add(large, ("", pane, pane), dict.fromkeys(range(3_000), 2**40 + pane))
    add(large, ("", 99, 99), {1: 5})
    add(large, ("", 99, 99), {1: 5}, -1)
    add(deltas.panes("huge", 1, PLAN.layout), ("", 0, 0), dict.fromkeys(range(200_000), 2**62))
    return deltas


def _held(records: list[tuple[int, bytes]]) -> dict[tuple[Any, ...], dict[int, int]]:
    held: dict[tuple[Any, ...], dict[int, int]] = {}
    for target, value in records:
        assert len(value) < MAX_MESSAGE_BYTES * 0.95
        for delta in deltas_of(decode_delta(value)):
            assert target == partition_of(delta.model.encode(), 5)
            assert delta.panes
            for pane in delta.panes:
                *where, counters = msgspec.structs.astuple(pane)
                sums = held.setdefault((delta.model, delta.version, delta.layout, delta.partition, *where), {})
                positions, counts = unpack_counters(counters)
                assert not set(positions.tolist()) & set(sums)
                sums.update(zip(positions.tolist(), counts.tolist(), strict=True))
    return held


def test_both_cores_write_the_same_records() -> None:
    from streams.native.partition import NativeJoinPartition

    join = NativeJoinPartition(3, JoinLimits(targets=5))
    native = join._pack(_deltas(), _View())
    assert _held(native) == _held(_deltas().records(3, 5))
    assert len(native) < 30
