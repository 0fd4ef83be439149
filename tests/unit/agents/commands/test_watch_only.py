"""The command line for a model that lives elsewhere: what works without it, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.artifacts import ArtifactStore
from agents.cli import app
from agents.commands.lines import messages
from agents.config import load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry import watched
from agents.registry.service import Registry
from schemas.events import ObserveVersion


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `init --monitor-only` writes, in a home of its own without a broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    folder = tmp_path / "parcels"
    done = run("init", str(folder), "--monitor-only")
    assert [Path(name).name for name in done["files"]] == [
        "driftline.toml",
        "past.csv",
        "predictions.jsonl",
        "labels.jsonl",
    ]
    return folder


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def appear(external: str) -> int:
    settings = load_settings()
    sessions = session_factory(make_engine(settings.database))
    command = ObserveVersion(
        command_id=external, model="parcels", actor="monitoring", external=external, at=datetime.now(UTC)
    )
    with sessions.begin() as session:
        return watched.observe(Registry(sessions, ArtifactStore.of(settings)), session, command)


def test_a_model_is_registered_watched_and_shown(project: Path) -> None:
    done = run("register", str(project), "--monitor-only", "--reference", str(project / "past.csv"))
    assert (done["model"], done["rows"], done["labelled"], done["versions"]) == ("parcels", 2_400, 2_400, [])
    assert run("models")["models"][0] | {"monitored": True, "champion": None} == run("models")["models"][0]
    assert run("versions", "parcels")["versions"] == []
    assert [appear("2026-03-rc1"), appear("2026-03-rc2")] == [1, 2]
    shown = run("versions", "parcels")["versions"]
    assert [(v["version"], v["external"], v["stage"], v["champion"]) for v in shown] == [
        (1, "2026-03-rc1", "observed", False),
        (2, "2026-03-rc2", "observed", True),
    ]
    assert "2026-03-rc2" in CliRunner().invoke(app, ["versions", "parcels"]).stdout
    # Another reference for one of them.
    again = run("register", str(project), "--monitor-only", "--reference", str(project / "past.csv"),
                "--version", "2026-03-rc1")  # fmt: skip
    assert again["versions"] == [3]
    # What was written for the topics is what the topics carry.
    for kind, file in (("predictions", "predictions.jsonl"), ("ground-truth", "labels.jsonl")):
        lines = (project / file).read_bytes().splitlines()
        assert len(list(messages(kind, lines, source=file))) == 80


def test_what_needs_the_model_is_refused(project: Path) -> None:
    run("register", str(project), "--monitor-only", "--reference-window", "14d")
    appear("rc1")
    for command in (
        ["approve", "parcels", "1"],
        ["reject", "parcels", "1"],
        ["rollback", "parcels"],
        ["predict", "parcels", "-f", "{}"],
    ):
        error = run(*command, code=1)["error"]
        assert error["type"] == "TransitionError", command
        assert "only watched" in error["what"]
        assert error["remedy"]


MISMATCHED = [
    (["--monitor-only"], "needs something to compare with"),
    (["--monitor-only", "--reference", "past.csv", "--reference-window", "14d"], "two references"),
    (["--monitor-only", "--data", "past.csv"], "nothing is trained"),
    (["--monitor-only", "--seasons", "past.csv", "--reference", "past.csv"], "--seasons goes with --data"),
    (["--reference", "past.csv"], "--reference belongs to --monitor-only"),
    (["--monitor-only", "--reference-window", "1h"], "no time to learn from"),
    (["--monitor-only", "--reference-window", "soon"], "soon"),
    (["--monitor-only", "--reference-window", "14d", "--version", "rc1"], "learnt for all versions"),
]


def test_options_that_do_not_go_together_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for options, what in MISMATCHED:
        error = run("register", str(project), *options, code=2)["error"]
        assert what in error["what"], options
        assert error["where"]
