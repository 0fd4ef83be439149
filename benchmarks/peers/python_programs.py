"""Quix Streams, in an environment of its own, and Faust, in ours: the programs below ``programs/``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import PROGRAMS, python_of, version_in
from benchmarks.peers.base import Job
from benchmarks.processes import Child
from schemas.topics import GROUND_TRUTH, PREDICTIONS


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
        self._python = python_of(cache, "quix-streams")
        return version_in(self._python, "quixstreams")

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
