"""Every benchmark of the hot path runs to its end with small counts, and its own checks hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.artifacts import ArtifactStore
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.questions import Questions
from agents.registry.search import histories
from benchmarks import latency, models, pending, recovery, registry, workers
from benchmarks.registry_fill import Filling
from schemas.errors import ConfigurationError


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


def test_registry(tmp_path: Path) -> None:
    small: dict[str, Any] = {"models": 200, "versions": 700, "questions": 3, "registrations": 3, "swaps_each": 0}
    small["database"] = f"sqlite:///{tmp_path / 'r.db'}"
    document = registry.run(**small)
    with pytest.raises(ConfigurationError, match="is no empty database"):
        registry.run(**small)
    row = _row(document, "50 approvals at once")
    assert (row["won"], row["refused"]) == (1, 49)
    assert {*registry.QUESTIONS, registry.REGISTER, registry.REGISTER_NEW, "decide on it", "audit verify"} < {
        row["name"] for row in document["rows"]
    }
    assert all(0 < row["p50_ms"] <= row["value"] <= row["max_ms"] for row in document["rows"])
    assert document["settings"]["events"] > 5 * 600


def test_a_registry_made_in_bulk_is_what_its_events_say(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'r.db'}")
    upgrade(engine)
    with session_factory(engine).begin() as session:
        Filling(120, 500).write(session, ArtifactStore(str(tmp_path / "artifacts")))
    with session_factory(engine, read_only=True)() as session:
        assert compare_tables(session, verify_audit(session)).problem is None
        told = histories(session, Questions().model_names(session))
        for name, history in told.items():
            info = Questions().model(session, name)
            assert (info.champion, info.challenger) == (history.champion, history.challenger)
            assert {v.version: v.stage for v in Questions().versions(session, name)} == history.stages
    engine.dispose()


@pytest.mark.slow
def test_registry_swaps() -> None:
    document = registry.run(models=100, versions=200, questions=1, registrations=1, swaps_each=2)
    assert {_row(document, f"{what} served")["times"] for what in ("promotion", "roll-back")} == {2}
