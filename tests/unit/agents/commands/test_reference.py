"""The reference pages name every command, option and route that there is, and none that there is not."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import typer.main

from agents.cli import app
from agents.gateway.app import create_app
from agents.gateway.context import Context
from agents.gateway.shared import SharedBoard
from tests.support.gateway import MemoryRegistry

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"
UNIVERSAL = {"--json", "--help", "-h"}


def test_every_command_and_option_is_described() -> None:
    sections = dict(re.findall(r"^### ([a-z -]+)\n(.*?)(?=^##|\Z)", (REFERENCE / "cli.md").read_text(), re.M | re.S))
    group = typer.main.get_command(app)
    commands = {name: group.commands[name] for name in group.commands if name != "config"}  # type: ignore[attr-defined]
    commands["config show"] = group.commands["config"].commands["show"]  # type: ignore[attr-defined]
    assert set(sections) == set(commands)
    for name, command in commands.items():
        # A group's section describes the options of all of its commands.
        described_here = [command, *getattr(command, "commands", {}).values()]
        visible = [p for one in described_here for p in one.params if not getattr(p, "hidden", False)]
        options = {o for p in visible for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} - UNIVERSAL
        described = set(re.findall(r"--[a-z-]+", sections[name])) - UNIVERSAL
        assert options == described, name


def test_every_route_is_described() -> None:
    text = (REFERENCE / "http.md").read_text()
    described = set(re.findall(r"`(GET|POST) (/[^`?\[]*)", text))
    application = create_app(Context(SharedBoard(), MemoryRegistry(), threading.Event()))
    paths = application.openapi()["paths"]
    present = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == present | {("GET", "/api/openapi.json")}


def test_metrics_described_are_those_exported() -> None:
    from starlette.testclient import TestClient

    from tests.support.gateway import make_context

    context, _ = make_context(days=5)
    with context.board.use() as board:
        board.watermarks[0] = 1
    with TestClient(create_app(context), base_url="http://127.0.0.1") as client:
        exported = set(re.findall(r"^(driftline_\w+?)(?:\{| )", client.get("/metrics").text, re.M))
    described = set(re.findall(r"^\| `(driftline_\w+)` \|", (REFERENCE / "http.md").read_text(), re.M))
    assert {name for name in exported if not name.endswith("_created")} == described
