"""The README's first event and first alert, run as they stand there, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str, heading: str) -> list[str]:
    section = README.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def _commands(block: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("driftline ")]


class Shell:
    """Runs the README's commands in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("DRIFTLINE_", "KAFKA_"))}
        self.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DRIFTLINE_PORT": "0"}

    def run(self, command: str, *, timeout: float = 120) -> str:
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("readme"))
    try:
        yield made
    finally:
        subprocess.run(
            [sys.executable, "-m", "agents.cli", "down"], cwd=made.folder, env=made.env, timeout=60, check=False
        )


def test_first_event_first_alert_and_down(shell: Shell) -> None:
    [first] = _blocks("sh", "Your first event")
    commands = _commands(first)
    assert [c.split()[1] for c in commands] == ["init", "up", "register", "produce", "produce", "status"]
    for command in commands:
        shell.run(command)

    [snippet] = _blocks("python", "Your first event")
    broker = json.loads(shell.run("driftline status --json"))["broker"]
    (shell.folder / "send.py").write_text(snippet, encoding="utf-8")
    shell.run(f"python send.py {broker}")

    def counted() -> bool:
        totals = json.loads(shell.run("driftline status --json"))["accounting"]
        return bool(totals["predictions"] == 81 and totals["labelled"] == 81)

    eventually(counted, timeout=30, interval=0.5)

    [alert] = _blocks("sh", "Your first alert")
    commands = _commands(alert)
    assert [c.split()[1] for c in commands] == ["alerts", "subscribe", "down"]
    shell.run("driftline alerts")
    # `subscribe` goes on until it is interrupted: that it is there and waits is what can be asked of it here.
    waiting = subprocess.Popen(
        "exec driftline subscribe", shell=True, cwd=shell.folder, env=shell.env, stdout=subprocess.PIPE
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    waiting.terminate()
    waiting.communicate(timeout=20)
    shell.run("driftline down")
