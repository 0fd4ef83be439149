"""The command line with keys: made once, asked for from then on, named in the audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agents.access.acting import account
from agents.cli import app
from agents.config import load_settings
from tests.support.databases import prepare
from tests.support.registries import RegistryWorld


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    for name in ("DRIFTLINE_DATABASE_URL", "DRIFTLINE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str, key: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), env={"DRIFTLINE_API_KEY": key})


def told(*arguments: str, key: str = "") -> Any:
    done = run(*arguments, "--json", key=key)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str, key: str = "") -> dict[str, str]:
    done = run(*arguments, "--json", key=key)
    assert done.exit_code == 4, done.output
    found: dict[str, str] = json.loads(done.stdout)["error"]
    return found


def test_from_the_first_key_on_the_command_line_asks_for_one(home: Path) -> None:
    assert told("keys", "list") == {"keys": []}
    assert run("keys", "create", "bea", "--role", "viewer").exit_code == 2, "the first is an admin's"
    admin = told("keys", "create", "ann", "--role", "admin")["key"]
    for command in (("models",), ("versions", "m"), ("approve", "m", "1"), ("keys", "list"), ("query", "SELECT 1"),
                    ("runs", "m"), ("rollback", "m"), ("reject", "m", "1"), ("alerts",), ("retrain", "m"),
                    ("lineage", "m"), ("rebuild", "m", "1"), ("reviews",), ("principals", "list"),
                    ("audit", "verify"), ("approve", "--all"), ("archive", "m", "1")):  # fmt: skip
        error = refused(*command)
        assert (error["type"], error["where"]) == ("UnauthenticatedError", "DRIFTLINE_API_KEY"), command
    assert told("models", key=admin) == {"models": [], "next": None}
    viewer = told("keys", "create", "bea", "--role", "viewer", "--model", "bus-*", "--expires", "30d", key=admin)["key"]
    assert told("models", key=viewer) == {"models": [], "next": None}
    error = refused("approve", "bus-1", "1", key=viewer)
    assert error["type"] == "ForbiddenError"
    assert "bea lacks the role approver on bus-1" in error["what"]
    assert refused("query", "SELECT 1", key=viewer)["type"] == "ForbiddenError"
    assert refused("keys", "list", key=viewer)["type"] == "ForbiddenError"
    listed = told("keys", "list", key=admin)["keys"]
    assert [(k["name"], k["grants"], k["created_by"]) for k in listed] == [
        ("ann", ["admin on *"], account()),
        ("bea", ["viewer on bus-*"], "ann"),
    ]
    assert listed[1]["expires_at"]
    assert viewer not in json.dumps(listed)


def test_rights_are_given_and_taken_and_keys_revoked(home: Path) -> None:
    admin = told("keys", "create", "ann", "--role", "admin")["key"]
    bea = told("keys", "create", "bea", "--role", "viewer", key=admin)["key"]
    told("keys", "grant", "bea", "--role", "approver", "--model", "m", key=admin)
    assert "no model 'm'" in run("approve", "m", "1", key=bea).stderr
    told("keys", "grant", "bea", "--role", "approver", "--model", "m", "--withdraw", key=admin)
    assert refused("approve", "m", "1", key=bea)["type"] == "ForbiddenError"
    told("keys", "revoke", "bea", key=admin)
    assert "was revoked" in refused("models", key=bea)["what"]
    assert run("keys", "revoke", "ann", key=admin).exit_code == 1, "the last admin"


@pytest.fixture
def world(home: Path) -> Iterator[RegistryWorld]:
    settings = load_settings()
    made = RegistryWorld(settings.database, settings.home)
    prepare(made.engine)
    yield made
    made.close()


def test_a_fleet_is_approved_by_pattern_and_a_roll_back_reviewed(world: RegistryWorld) -> None:
    for name in ("bus-1", "bus-2", "tram-1"):
        world.model(name, mode="manual")
        for _ in range(2):
            world.candidate(name, mode="manual")
    for wrong in (("approve",), ("approve", "bus-1"), ("approve", "bus-1", "1", "--match", "x"),
                  ("approve", "bus-1", "1", "--all")):  # fmt: skip
        assert run(*wrong).exit_code == 2, wrong
    admin = told("keys", "create", "ann", "--role", "admin")["key"]
    bea = told("keys", "create", "bea", "--role", "approver", "--model", "bus-1", key=admin)["key"]
    done = run("approve", "--all", "--match", "bus-*", "--json", key=bea)
    assert done.exit_code == 1, "some of it was refused"
    found = json.loads(done.stdout)
    assert (found["approved"], found["refused"]) == (2, 2)
    assert told("approve", "--all", "--match", "bus-*", key=admin)["approved"] == 2
    assert "nothing fits" in run("approve", "--all", "--match", "ship-*", key=admin).stdout
    assert run("approve", "tram-1", "1", "--artifact", "0" * 64, key=admin).exit_code == 1
    assert told("rollback", "bus-1", "--reason", "it burns", key=bea)["version"] == 1
    (flagged,) = told("reviews", key=bea)["reviews"]
    assert (flagged["actor"], flagged["reason"]) == ("bea", "it burns")
    assert run("reviews", "--done", str(flagged["id"]), key=admin).exit_code == 2, "say what was found"
    (looked,) = told("reviews", "--done", str(flagged["id"]), "--comment", "right", key=admin)["reviews"]
    assert (looked["reviewed_by"], looked["comment"]) == ("ann", "right")
    assert told("reviews", key=admin) == {"reviews": []}
    assert len(told("reviews", "--all", key=admin)["reviews"]) == 1
    assert told("archive", "bus-1", "2", key=bea)["stage"] == "archived"
    assert run("request-approval", "bus-1", "2", key=admin).exit_code == 1
    assert told("versions", "bus-1", key=bea)["versions"][1]["stage"] == "archived"


def test_types_are_agreed_to_on_the_command_line(world: RegistryWorld) -> None:
    for name in ("bus-1", "bus-2"):
        world.model(name, allowed=("own_models.Own",))
        world.candidate(name, allowed=("own_models.Own",))
    assert "own_models.Own" in run("show", "bus-1", "1").stdout
    assert "types to agree to" in run("approve", "--all", "--dry-run").stdout
    assert [o["new_types"] for o in told("approve", "--all", "--dry-run")["would"]] == [["own_models.Own"]] * 2
    refused_so = run("approve", "bus-1", "1", "--allow-type", "own_models.Other")
    assert refused_so.exit_code == 1
    assert "--allow-type own_models.Own" in refused_so.stderr
    assert told("approve", "bus-1", "1", "--allow-type", "own_models.Own")["stage"] == "promoted"
    assert told("approve", "--all", "--allow-type", "own_models.Own")["approved"] == 1
    assert "agreed to own_models.Own" in run("show", "bus-1", "1").stdout
    assert "the audit holds" in run("audit", "verify", "--unpublished").stdout


def test_a_fleet_is_searched_tagged_and_rolled_back_as_confirmed(world: RegistryWorld) -> None:
    for name in ("bus-1", "bus-2", "tram-1"):
        world.model(name)
        for _ in range(2):
            world.candidate(name)
    assert told("tag", "bus-1", "line=m", "fuel=gas")["tags"] == {"fuel": "gas", "line": "m"}
    assert told("tag", "bus-1", "--remove", "fuel")["tags"] == {"line": "m"}
    assert told("tag", "bus-2", "checked=yes", "--version", "2")["tags"] == {"checked": "yes"}
    assert [m["model"] for m in told("models", "--tag", "line=m")["models"]] == ["bus-1"]
    page = told("models", "--match", "bus-*", "--limit", "1")
    assert ([m["model"] for m in page["models"]], page["next"]) == (["bus-1"], "bus-1")
    assert [m["model"] for m in told("models", "--after", page["next"], "--limit", "1")["models"]] == ["bus-2"]
    assert [(v["model"], v["version"]) for v in told("versions", "--tag", "checked")["versions"]] == [("bus-2", 2)]
    assert told("models", "--as-of", "2000-01-01")["models"] == []
    listed = told("rollback", "--all", "--match", "bus-*")
    assert (listed["possible"], [one["stage"] for one in listed["would"]]) == (2, ["instead of 2"] * 2)
    assert run("rollback", "--all", "--match", "bus-*", "--confirm", "3").exit_code == 1
    assert [m["champion"] for m in told("models")["models"]] == [2, 2, 2], "nothing was done"
    assert told("rollback", "--all", "--match", "bus-*", "--confirm", "2", "--reason", "data")["rolled_back"] == 2
    assert [m["champion"] for m in told("models")["models"]] == [1, 1, 2]
    for wrong in (
        ("rollback", "--match", "bus-*"),
        ("rollback", "bus-1", "--all"),
        ("reject", "--dry-run"),
        ("tag", "m", "x"),
    ):
        assert run(*wrong).exit_code == 2, wrong


def test_a_lost_admin_is_recovered_by_the_account(home: Path) -> None:
    told("keys", "create", "ann", "--role", "admin")
    assert refused("keys", "create", "bea", "--role", "admin")["type"] == "UnauthenticatedError"
    found = told("keys", "create", "bea", "--role", "admin", "--recover")
    assert told("keys", "list", key=found["key"])["keys"][1]["created_by"] == account()


def test_the_key_is_shown_once_on_standard_output_and_hidden_elsewhere(home: Path) -> None:
    done = run("keys", "create", "ann", "--role", "admin")
    key = done.stdout.strip()
    assert key.startswith("dlk_")
    assert "not shown again" in done.stderr
    assert key not in done.stderr
    shown = run("config", "show", key=key)
    assert key not in shown.output
    assert "(hidden)" in shown.output


def test_agents_are_not_handed_the_key_of_whoever_started_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_API_KEY", "dlk_secret")
    settings = load_settings()
    assert settings.api_key == "dlk_secret"
    assert "dlk_secret" not in repr(settings)
    assert "dlk_secret" not in settings.environment().values()
