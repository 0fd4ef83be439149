"""Quix Streams, in an environment of its own, and Faust, in ours: the programs below ``programs/``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import UnavailableError
from benchmarks.peers.base import Job, fingerprint
from benchmarks.processes import Child
from schemas.topics import GROUND_TRUTH, PREDICTIONS

PROGRAMS = Path(__file__).parent / "programs"
REQUIREMENTS = PROGRAMS / "quix-requirements.txt"
_INSTALL_S = 900


class QuixStreams:
    """Quix Streams' `join_interval`."""

    name = "quix_streams"
    full = False

    def __init__(self) -> None:
        self._python = ""

    def about(self) -> Mapping[str, object]:
        """Guarantee and state."""
        return {"guarantee": "at-least-once", "state": "join: RocksDB, changelogged; counts: in memory"}

    def prepare(self, cache: Path) -> str:
        """Make the environment once per list of requirements.

        Raises
        ------
        UnavailableError
            The packages cannot be had.
        """
        tag = f"{sys.version_info.major}{sys.version_info.minor}-{fingerprint(REQUIREMENTS)}"
        home = (cache / f"quix-streams-{tag}").resolve()
        self._python = str(home / "bin" / "python")
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            for command in (
                [sys.executable, "-m", "venv", str(home)],
                [self._python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS)],
            ):
                _run(command)
            (home / "complete").touch()
        return _run([self._python, "-c", "from importlib.metadata import version; print(version('quixstreams'))"])

    def start(self, job: Job) -> Child:
        """The process, not started yet."""
        return _child(self._python, "quix_app.py", job)


class Faust:
    """A Faust application with two agents."""

    name = "faust"
    full = False

    def about(self) -> Mapping[str, object]:
        """Guarantee and state."""
        return {"guarantee": "at-least-once", "state": "in memory", "aiokafka": version("aiokafka")}

    def prepare(self, cache: Path) -> str:
        """Nothing to build: the control agents run on the same version."""
        return version("faust-streaming")

    def start(self, job: Job) -> Child:
        """The process, not started yet."""
        return _child(sys.executable, "faust_app.py", job)


def _child(python: str, program: str, job: Job) -> Child:
    settings = {
        "servers": job.kafka.bootstrap_servers,
        "group": job.kafka.group(job.group),
        "folder": str(job.folder / "state"),
        "commit_interval_s": job.commit_interval_ms / 1000,
        "horizon_ms": job.horizon_ms,
        "predictions": job.kafka.topic(PREDICTIONS),
        "labels": job.kafka.topic(GROUND_TRUTH),
        "output": job.kafka.topic(job.output),
    }
    file = job.folder / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DRIFTLINE_"))}
    return Child([python, str(PROGRAMS / program), str(file)], job.folder / "peer.log", environment=environment)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{' '.join(command[:4])} … did not finish within {_INSTALL_S} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise UnavailableError(f"{' '.join(command[1:4])} … failed: {' '.join(said)[:400]}")
    return done.stdout.strip()
