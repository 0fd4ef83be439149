"""The command line as a whole: help, start-up, errors, documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.commands.project import shown_settings
from agents.commands.sample import sample_files
from agents.config import Settings
from schemas.specification import FILE_NAME, parse
from schemas.topics import CATALOGUE

COMMANDS = [
    "demo",
    "up",
    "down",
    "status",
    "doctor",
    "config",
    "init",
    "topics",
    "register",
    "models",
    "versions",
    "approve",
    "reject",
    "rollback",
    "runs",
    "retrain",
    "alerts",
    "subscribe",
    "predict",
    "produce",
    "query",
    "bench",
    "agent",
]
HEAVY = ("numpy", "pandas", "sklearn", "duckdb", "confluent_kafka", "sqlalchemy", "faust", "fastapi", "rich.table")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no setting from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    return tmp_path / "home"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_every_command_of_the_design_is_there() -> None:
    code, out, _ = run("--help")
    assert code == 0
    listed = {line.split()[1] for line in out.splitlines() if line.startswith("│ ") and len(line.split()) > 2}
    assert set(COMMANDS) <= listed


def test_help_loads_nothing_heavy() -> None:
    program = "import sys, agents.cli; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_init_writes_a_project_that_parses_and_refuses_to_overwrite(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parcels"
    code, out, _ = run("init", str(folder), "--json")
    assert code == 0
    assert json.loads(out)["files"] == list(sample_files())
    spec = parse((folder / FILE_NAME).read_text())
    header, first = (folder / "training.csv").read_text().splitlines()[:2]
    columns = header.split(",")
    assert {*spec.features, spec.data.id, spec.data.event_time, spec.data.label, *spec.data.segments} <= set(columns)
    assert len(first.split(",")) == len(columns)
    request = json.loads((folder / "requests.jsonl").read_text().splitlines()[0])
    assert set(request["features"]) == set(spec.features)
    assert request["model"] == spec.name == "parcels"
    before = (folder / "pipeline.py").read_text()
    code, _, err = run("init", str(folder))
    assert code == 2
    assert "exists already; nothing was written" in err
    assert (folder / "pipeline.py").read_text() == before


def test_the_sample_is_the_same_on_every_call() -> None:
    assert sample_files() == sample_files()


def test_sample_labels_come_within_the_delay_of_their_requests() -> None:
    files = sample_files()
    limit = parse(files[FILE_NAME]).max_label_delay_ms
    asked = {r["request_id"]: r["event_time_ms"] for r in map(json.loads, files["requests.jsonl"].splitlines())}
    labels = list(map(json.loads, files["labels.jsonl"].splitlines()))
    assert {label["prediction_id"] for label in labels} == set(asked)
    assert all(0 < label["event_time_ms"] - asked[label["prediction_id"]] <= limit for label in labels)
    assert [label["event_time_ms"] for label in labels] == sorted(label["event_time_ms"] for label in labels)


def test_topics_plan_needs_no_broker(home: Path) -> None:
    code, out, _ = run("topics", "--plan", "--json")
    assert code == 0
    listed = json.loads(out)
    assert listed["applied"] is False
    assert [topic["topic"] for topic in listed["topics"]] == list(CATALOGUE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("topics",),
        ("subscribe",),
        ("alerts",),
        ("predict", "m", "--features", "{}"),
        ("produce", "requests", "-"),
        ("agent", "serving"),
    ],
)
def test_without_a_broker_both_remedies_are_named(home: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 3
    assert "driftline up" in err
    assert "KAFKA_BOOTSTRAP_SERVERS" in err


def test_with_json_an_error_is_the_one_document(home: Path) -> None:
    code, out, err = run("status", "--json")
    assert code == 3
    error = json.loads(out)["error"]
    assert error["type"] == "BrokerUnreachableError"
    assert error["what"] in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("produce", "nonsense"), "accepted: requests"),
        (("agent", "nobody"), "no agent is called"),
        (("subscribe", "no-such-topic"), "no topic 'no-such-topic'"),
        (("bench", "nothing"), "no benchmark"),
        (("config", "show", "nowhere"), "driftline init"),
    ],
)
def test_wrong_arguments_say_what_is_accepted(home: Path, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run(*arguments)
    assert code != 0
    assert said in err


def test_config_show_tells_where_a_setting_comes_from_and_hides_secrets(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_WEBHOOK_SECRET", "whsec_hush")
    monkeypatch.setenv("DRIFTLINE_DATABASE_URL", "postgresql://me:hush@db/registry")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hush")
    run("init", str(tmp_path / "p"))
    file = tmp_path / "p" / FILE_NAME
    file.write_text("".join(line for line in file.open() if not line.startswith("revision_horizon")))
    code, out, _ = run("config", "show", str(tmp_path / "p"), "--json")
    assert code == 0
    assert "hush" not in out
    shown = json.loads(out)
    assert shown["settings"]["database_url"] == "postgresql://me:(hidden)@db/registry"
    assert shown["kafka"] == {"sasl.password": "(hidden)"}
    assert shown["specification"]["data"]["revision_horizon"] == "5d"
    assert shown["specification"]["approval"] == {
        "mode": "auto",
        "approvers": 1,
        "four_eyes": False,
        "expires": None,
    }
    origins = {entry["name"]: entry["from"] for entry in shown_settings(Settings())}
    assert origins["database_url"] == "environment"
    assert origins["grace_ms"] == "default"


def test_config_show_prints_toml_that_parses_to_the_same(home: Path, tmp_path: Path) -> None:
    run("init", str(tmp_path / "p"))
    _, out, _ = run("config", "show", str(tmp_path / "p"))
    printed = out.partition("with its defaults\n")[2]
    written = parse((tmp_path / "p" / FILE_NAME).read_text())
    shown = parse(printed)
    assert shown.features == written.features
    assert shown.retraining == written.retraining
    assert shown.metrics == written.metrics
    assert shown.revision_horizon_ms == written.revision_horizon_ms


def test_models_of_an_empty_database_is_no_error(home: Path) -> None:
    code, out, _ = run("models", "--json")
    assert (code, json.loads(out)) == (0, {"models": [], "next": None})
    code, _, err = run("versions", "nobody")
    assert code == 1
    assert "nobody" in err
