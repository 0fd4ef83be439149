"""What the supervisor says about itself: one file in home, and a lock that tells whether it is true."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["starting", "running", "stopping", "failed"]
AgentState = Literal["starting", "ready", "waiting", "failed", "stopped"]


class AgentStatus(msgspec.Struct):
    """One agent under the supervisor."""

    pid: int | None = None
    state: AgentState = "stopped"
    restarts: int = 0
    failures_in_a_row: int = 0
    """Ends since it was last up for a while; back to 0 after a minute of work."""
    last_exit: int | None = None
    log: str = ""


class Failure(msgspec.Struct, frozen=True):
    """A `DriftlineError` on its way to another process."""

    type: str
    what: str
    where: str = ""
    remedy: str = ""


class SystemStatus(msgspec.Struct):
    """The whole system of one home."""

    pid: int
    state: State = "starting"
    bootstrap_servers: str = ""
    started_at_ms: int = 0
    agents: dict[str, AgentStatus] = {}
    failure: Failure | None = None


def status_file(home: Path) -> Path:
    """Where the status lies."""
    return home.resolve() / "supervisor.json"


def lock_file(home: Path) -> Path:
    """Locked exactly as long as a supervisor of this home lives."""
    return home.resolve() / "supervisor.lock"


def write_status(home: Path, status: SystemStatus) -> None:
    """Replace the status file in one step."""
    path = status_file(home)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=2))
    temporary.replace(path)


def read_status(home: Path) -> SystemStatus | None:
    """What the file says, whether or not it still holds."""
    try:
        return msgspec.json.decode(status_file(home).read_bytes(), type=SystemStatus)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def take_lock(home: Path, *, patience_s: float = 2.0) -> int | None:
    """Take the lock for this process's life; None when another supervisor has it.

    Whoever asks `is_running` holds the lock for a moment, so one refusal is not believed.
    """
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_file(home), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def is_running(home: Path) -> bool:
    """Whether a supervisor of this home lives (a stale status file does not count)."""
    try:
        descriptor = os.open(lock_file(home), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
