"""The loop end to end, on the embedded broker and real flights: five weeks of the demo, disturbance and all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest

START, UNTIL = "2013-02-01", "2013-03-09"
WEEKS = (date.fromisoformat(UNTIL) - date.fromisoformat(START)).days // 7
PATIENCE_S = 560
"""One minute of a machine that has nothing else to do; the suite's other processes take their share."""

pytestmark = pytest.mark.timeout(PATIENCE_S + 40)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of `driftline demo --json` over the stretch."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "agents.cli", "demo", "--json", "--start", START, "--until", UNTIL]
    done = subprocess.run(
        [*command, "--home", str(folder / "home"), "--report", str(folder / "report")],
        capture_output=True,
        text=True,
        env={**os.environ, "DRIFTLINE_PORT": "0"},
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    document: dict[str, Any] = json.loads(done.stdout)
    document["folder"] = folder
    return document


def test_every_id_is_in_exactly_one_place(summary: dict[str, Any]) -> None:
    assert summary["lost"] == summary["duplicated"] == 0
    assert summary["differences"] == []
    dead = summary["dead_lettered"]["dlq.inference-requests"]
    assert summary["requests"] == summary["predictions"] + dead
    assert summary["predictions"] == summary["pending"] + summary["labelled"] + summary["expired"]
    assert dead > 0
    assert summary["dead_lettered"]["dlq.ground-truth"] > summary["labels"]["late"] > 0
    assert summary["labels"]["duplicate"] > 0
    assert summary["revised"] > 0
    assert summary["disturbance"]["SIGKILL of agents"] == "monitoring"


def test_a_successor_is_promoted_and_swapped_in_and_the_spoiled_one_refused(summary: dict[str, Any]) -> None:
    decisions = {version["version"]: version["decision"] for version in summary["versions"]}
    assert decisions[1] == "initial"
    assert "promoted" in decisions.values()
    spoiled = [v for v in summary["versions"] if v["decision"] == "rejected"]
    assert spoiled, summary["versions"]
    assert all(version["reason"] for version in summary["versions"])
    swaps = summary["swaps"]
    assert swaps[0]["from"] is None
    promoted = sum(decision in ("initial", "promoted", "rolled-back") for decision in decisions.values())
    assert len(swaps) == promoted
    for swap in swaps[1:]:
        assert sum(swap["offsets"]["inference-requests"].values()) > 0


def test_live_quality_is_measured_beside_the_frozen_version(summary: dict[str, Any]) -> None:
    for who in ("live", "frozen"):
        assert 0.5 < summary[who]["roc_auc"] < 0.8
    assert summary["seconds"]["first_joined"] is not None
    assert len(summary["series"]) >= WEEKS


def test_the_report_is_one_file_without_outside_references(summary: dict[str, Any]) -> None:
    report = (summary["folder"] / "report" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report
    for outside in ("http://", "https://", "<script", "<link"):
        assert outside not in report
    written = json.loads((summary["folder"] / "report" / "summary.json").read_text(encoding="utf-8"))
    assert written["requests"] == summary["requests"]


def test_nothing_is_left_running(summary: dict[str, Any]) -> None:
    home = str(Path(summary["folder"]) / "home")
    left = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ = process.info["environ"] or {}
        if environ.get("DRIFTLINE_HOME") == home or any(home in part for part in process.info["cmdline"] or []):
            left.append(process.info["cmdline"])
    assert left == []
