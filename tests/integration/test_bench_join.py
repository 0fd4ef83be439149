"""The join benchmark runs to its end, and its outputs are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from benchmarks import join
from benchmarks.peers.catalogue import PEERS

ROWS = ["driftline", "raw_consume"]


def test_the_worker_beside_raw_consume_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["bench", "join", "--json", "--events", "2000", "--rounds", "1", "--peers", "none"]
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [row["name"] for row in document["rows"]] == ROWS
    assert all(row["value"] > 0 and row["cpu_seconds"] >= 0 and row["rss_mib"] > 0 for row in document["rows"])
    assert document["ratios"].keys() == document["ratio_range"].keys() == {"driftline/raw_consume"}
    assert "round 1/1" in result.stderr


@pytest.mark.slow
def test_every_peer_that_can_run_here_finds_the_same(tmp_path: Path) -> None:
    document = join.run(events=5_000, rounds=1, small_events=2_000)
    assert [row["name"] for row in document["rows"]] == [*ROWS, *PEERS]
    for row in document["rows"]:
        assert row["value"] is None or "skipped" not in row, row["skipped"]
        assert (row["value"] is None) == ("skipped" in row)
        assert not row.get("skipped", "").startswith("failed"), row["skipped"]
