"""Rounds, ratios, comparison and skipping of the benchmarks' harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.harness import Contender, Measurement, UnequalError, compare, paired_ratios, skipped


@contextmanager
def numbered(number: int) -> Iterator[int]:
    yield number


def contender(
    name: str,
    values: list[float],
    *,
    seen: list[str] | None = None,
    output: dict[str, int] | None = None,
    key: str = "",
) -> Contender[int]:
    """One that measures ``values[round]``."""

    def measure(number: int) -> Measurement:
        if seen is not None:
            seen.append(f"{name}{number}")
        return Measurement(values[number], cpu_seconds=values[number] / 10, output=output, details={"seconds": 2.0})

    return Contender(name, "1.0", measure, output_key=key)


def failing(name: str, in_round: int, error: Callable[[], Exception]) -> Contender[int]:
    def measure(number: int) -> Measurement:
        if number == in_round:
            raise error()
        return Measurement(10.0)

    return Contender(name, "1.0", measure)


def test_the_ratio_is_the_median_of_the_paired_ratios_not_the_ratio_of_the_medians() -> None:
    ours, peer = contender("driftline", [100.0, 400.0, 300.0]), contender("peer", [100.0, 100.0, 200.0])
    result = compare("x", [ours, peer], 3, numbered)
    assert result["ratios"] == {"driftline/peer": 1.5}
    assert result["ratio_range"] == {"driftline/peer": [1.0, 4.0]}
    row = result["rows"][0]
    assert (row["value"], row["spread"], row["values"]) == (300.0, [100.0, 400.0], [100.0, 400.0, 300.0])
    assert (row["cpu_seconds"], row["seconds"]) == (30.0, 2.0)


def test_every_other_round_runs_backwards() -> None:
    seen: list[str] = []
    compare("x", [contender(n, [1.0] * 3, seen=seen) for n in ("driftline", "b", "c")], 3, numbered)
    assert seen == ["driftline0", "b0", "c0", "c1", "b1", "driftline1", "driftline2", "b2", "c2"]


def test_only_rounds_that_both_finished_are_paired() -> None:
    ours = {number: Measurement(float(value)) for number, value in enumerate((10, 20, 30))}
    assert paired_ratios(ours, {1: Measurement(5.0)}) == [4.0]
    assert paired_ratios(ours, {}) == []


def test_a_skipped_contender_has_a_row_with_its_reason_and_no_ratio() -> None:
    told: list[str] = []
    contenders = [contender("driftline", [1.0]), skipped("peer", "Maven is not installed")]
    result = compare("x", contenders, 1, numbered, note=told.append)
    assert result["rows"][1] | {"value": None, "skipped": "Maven is not installed"} == result["rows"][1]
    assert result["ratios"] == {}
    assert any("Maven" in line for line in told)


def test_a_peer_that_fails_keeps_its_finished_rounds_and_is_left_out_of_the_rest() -> None:
    ours = contender("driftline", [20.0, 20.0, 20.0])
    result = compare("x", [ours, failing("peer", 1, lambda: RuntimeError("out of memory"))], 3, numbered)
    row = result["rows"][1]
    assert row["values"] == [10.0]
    assert row["skipped"] == "failed in round 2: out of memory"
    assert result["ratios"] == {"driftline/peer": 2.0}


def test_a_failure_of_the_baseline_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="killed"):
        compare("x", [failing("driftline", 0, lambda: RuntimeError("killed"))], 1, numbered)


def test_outputs_that_differ_end_the_benchmark() -> None:
    ours = contender("driftline", [1.0], output={"pairs": 7})
    with pytest.raises(UnequalError, match=r"driftline found \{'pairs': 7\}, peer \{'pairs': 6\}"):
        compare("x", [ours, contender("peer", [1.0], output={"pairs": 6})], 1, numbered)


def test_outputs_of_other_data_are_not_compared() -> None:
    small = contender("peer", [1.0], output={"pairs": 6}, key="small")
    compare("x", [contender("driftline", [1.0], output={"pairs": 7}), small], 1, numbered)


def test_a_peer_whose_output_is_wrong_is_not_taken_for_one_that_cannot_run() -> None:
    contenders = [contender("driftline", [1.0]), failing("peer", 0, lambda: UnequalError("6 pairs of 7"))]
    with pytest.raises(UnequalError, match="6 pairs of 7"):
        compare("x", contenders, 1, numbered)
