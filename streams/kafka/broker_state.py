"""How processes find the embedded broker of a home: a state file that tells where, and a lock that tells whether."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec


class BrokerState(msgspec.Struct, frozen=True):
    """What the state file says about the running broker."""

    pid: int
    """The wrapper's process id: SIGTERM to it stops the broker in order."""
    port: int
    owner: int
    """Process id of whoever started it."""

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self.port}"


# The state file tells where; the lock, which the JVM itself holds, tells whether. So a process id that was given to
# somebody else can never be mistaken for the broker.
STATE_FILE = "broker.json"
LOCK_FILE = "broker.lock"


def find_broker(home: Path) -> BrokerState | None:
    """The broker that runs in `home`, whoever started it, or None."""
    folder = home.resolve() / "kafka"
    state = read_state(folder / STATE_FILE)
    return state if state is not None and held(folder / LOCK_FILE) else None


def read_state(path: Path) -> BrokerState | None:
    """What the state file says, whether or not it still holds."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BrokerState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def held(lock: Path) -> bool:
    """Whether somebody holds the lock; takes it for a moment to find out."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_state(path: Path, state: BrokerState) -> None:
    """Replace the state file in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(path)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected (Linux tells) does not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
