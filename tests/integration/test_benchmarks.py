"""Every benchmark of the hot path runs to its end with small counts, and its own checks hold."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import latency, models, pending, recovery, workers


def _row(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in document["rows"] if row["name"] == name)


def test_pending() -> None:
    document = pending.run(sizes=[6_000], sample=1_000)
    assert [row["name"] for row in document["rows"]] == ["load 6k", "in_order 6k", "random 6k"]
    assert [row["events"] for row in document["rows"]] == [6_000, 1_000, 1_000]
    assert all(row["value"] > 0 and row["state_mib"] > 0 for row in document["rows"])


@pytest.mark.slow
def test_recovery() -> None:
    document = recovery.run(sizes=[8_000], session_timeout_ms=1_500)
    for name in ("with folder 8k", "without folder 8k"):
        row = _row(document, name)
        assert (row["lost"], row["duplicated"], row["accounting"]) == (0, 0, "complete")
        assert row["caught_up_s"] >= row["value"] > row["group_wait_s"]
    assert _row(document, "without folder 8k")["replayed"] > 8_000
    assert document["ratios"]["replay/join 8k"] > 0


@pytest.mark.slow
def test_workers() -> None:
    document = workers.run(events=3_000, rounds=1)
    assert [row["name"] for row in document["rows"]] == ["one worker", "2 workers"]
    assert document["ratios"]["2 workers/one worker"] > 0


def test_latency() -> None:
    document = latency.run(rate=200.0, seconds=2.0, warm_up_s=1.0, idle=False)
    row = _row(document, "load")
    assert row["probes"] > 20
    assert row["not_visible"] == 0
    assert 0 < row["p50_s"] <= row["p99_s"] <= row["max_s"]


@pytest.mark.slow
def test_models() -> None:
    document = models.run(events=150_000, models=[1, 40])
    assert [row["name"] for row in document["rows"]] == ["1 model", "40 models"]
    assert all(row["value"] > 0 and row["closing_s"] > 0 for row in document["rows"])
    assert document["ratios"]["1 model/40 models"] > 0
