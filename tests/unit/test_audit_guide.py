"""The guide's walk through an audit, command by command, over a small history: what it shows can be typed."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.config import load_settings
from agents.database.engine import make_engine, session_factory
from agents.retraining.register import register_project
from schemas.events import Alert, QualityMetric
from schemas.topics import ALERTS, QUALITY_METRICS
from tests.unit.agents.archiving.conftest import Archive, Log
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table
from tests.unit.agents.retraining.test_rebuild import archive_days

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "audit.md"
SMALL = {
    "flight-delay": "toy",
    "2013-08-20T12:00:00Z": "2024-01-24T12:00:00Z",
    "2013-08-17T00:00:00Z": "2999-01-01T00:00:00Z",
    "2013-09-01T00:00:00Z": "2999-01-01T00:00:00Z",
    "count(*) > 1000": "count(*) > 200",
}
"""What the small history calls its things."""
END = datetime(2024, 1, 25, tzinfo=UTC)
QUALITY = QualityMetric(
    model="toy",
    version=1,
    segment=None,
    window="7d",
    window_start=END - timedelta(days=7),
    window_end=END,
    state="closed",
    revision=1,
    n=600,
    coverage=1.0,
    metrics={"roc_auc": 0.7, "brier": 0.2},
)
ALERT = Alert(
    incident_id="i",
    model="toy",
    version=1,
    kind="quality",
    subject="brier",
    segment=None,
    severity="critical",
    status="opened",
    opened_at=END,
    closed_at=None,
    title="brier rose",
    explanation="brier rose to 0.2",
)
EXPECTED = {
    "live": r"answered, by event time +version 1, [\d,]+ predictions(.|\n)*made again by +driftline rebuild toy 1",
    "why": r"trigger +registration(.|\n)*7d to 2024-01-25 00:00:00: roc_auc 0.7",
    "lineage": r"toy 2|made from",
    "audit": r"rows",
    "rebuild": r"reproduced",
    "datasets": r"rows",
    "query": r"\d",
}


def commands() -> list[list[str]]:
    """Every command line of the guide, with the small history's names."""
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ driftline ")]
    found = []
    for line in lines:
        words = shlex.split(line)[1:]
        for old, new in SMALL.items():
            words = [word.replace(old, new) for word in words]
        if words[0] in {"lineage", "rebuild"}:
            words[2] = "2"
        elif words[0] == "why":
            words[2] = "1"
        found.append(words)
    return found


def test_every_command_of_the_guide_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    for name in ("DATABASE_URL", "ARCHIVE_URL", "ARTIFACTS_URL", "API_KEY"):
        monkeypatch.delenv(f"DRIFTLINE_{name}", raising=False)
    settings = load_settings()
    toy_table(20).to_csv(tmp_path / "table.csv", index=False)
    project = write_project(tmp_path / "p", spec=SPEC.replace('"25d"', '"20000d"'))
    register_project(settings, None, project, tmp_path / "table.csv", actor="ada")
    log = Log()
    archive_days(settings, log, 20, 5)
    register_project(settings, None, project, None, actor="ada")
    told = Archive(Path(settings.archive), session_factory(make_engine(settings.database)), log)
    told.write([log.record(QUALITY_METRICS, QUALITY), log.record(ALERTS, ALERT)])
    walked = set()
    late = False
    for words in commands():
        if words == ["audit", "verify"]:
            continue  # asks the broker, too: tests/integration/test_commands.py
        if words[:2] == ["datasets", "create"] and late:
            archive_days(settings, log, 26, 1)
        late = late or words[:2] == ["datasets", "create"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
        assert re.search(EXPECTED[words[0]], done.output), (words, done.output)
        assert "no rows" not in done.output, words
        walked.add(words[0])
    assert walked == set(EXPECTED)
    for words, said in ((["live", "toy", "--json"], '"clock": {'), (["why", "toy", "2", "--json"], '"endings": [')):
        done = CliRunner().invoke(app, words)
        assert said in done.stdout
        assert msgspec.json.decode(done.stdout)["model"] == "toy"
    refused = CliRunner().invoke(app, ["live", "toy", "--at", "1999-01-01", "--json"])
    error = msgspec.json.decode(refused.stdout)["error"]
    assert (refused.exit_code, error["type"], error["where"]) == (1, "NotFoundError", "model toy")
    assert "no version was live at 1999-01-01T00:00:00Z" in error["what"]
    assert "driftline versions toy" in error["remedy"]
