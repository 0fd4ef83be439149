"""Models that a specification would have to allow by name, and what they do when they predict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


class Plain(BaseEstimator):  # type: ignore[misc]
    """Answers nought."""

    def predict(self, frame: Any) -> Any:
        return np.zeros(len(frame))


def say(file: str, pid: int) -> None:
    Path(file).write_text(f"{pid}\n")


class Marking(Plain):
    """Leaves a mark in the modules of its process, and refuses one that has it."""

    def predict(self, frame: Any) -> Any:
        if hasattr(np, "marked"):
            raise RuntimeError("another model was here")
        np.marked = True  # type: ignore[attr-defined]
        return super().predict(frame)


class Telling(Plain):
    """Fails with what it sees."""

    def __init__(self, what: str = "") -> None:
        self.what = what

    def predict(self, frame: Any) -> Any:
        raise ValueError(f"told {json.dumps(self._seen())}")

    def _seen(self) -> Any:
        if self.what == "descriptors":
            return [number for number in range(1024) if _is_open(number)]
        if self.what == "environment":
            return sorted(os.environ)
        return os.getppid() if self.what == "parent" else os.getpid()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


class Hanging(Plain):
    """Never answers."""

    def __init__(self, said: str = "", busy: bool = False) -> None:
        self.said = said
        self.busy = busy

    def predict(self, frame: Any) -> Any:
        if self.said:
            say(self.said, os.getpid())
        while True:
            if not self.busy:
                time.sleep(60)


class Forking(Plain):
    """Starts a process, and both hang."""

    def __init__(self, said: str = "", started: str = "") -> None:
        self.said = said
        self.started = started

    def predict(self, frame: Any) -> Any:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        say(self.started, child.pid)
        say(self.said, os.getpid())
        while True:
            time.sleep(60)


class Murderous(Plain):
    """Kills its parent unless that is who is spared."""

    def __init__(self, spared: int = 0, said: str = "") -> None:
        self.spared = spared
        self.said = said

    def predict(self, frame: Any) -> Any:
        parent = os.getppid()
        if parent != self.spared:
            say(self.said, parent)
            os.kill(parent, signal.SIGKILL)
        return super().predict(frame)
