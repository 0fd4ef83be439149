"""The system as a whole, from any process: start it, look at it, stop it.

The supervisor is a process of its own (`agents.supervisor_process`); this is the handle on it. Whoever started it owns
it: when the owner ends, however that happens, the system stops in order, unless it was detached before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agents.config import Settings
from agents.supervisor_status import SystemStatus, is_running, read_status
from schemas import errors
from schemas.errors import ConfigurationError, DriftlineError, NotFoundError

__all__ = ["Supervisor", "SystemStatus", "is_running", "read_status"]

START_SECONDS = 120.0
STOP_SECONDS = 45.0
GIVE_UP_AFTER = 5
_POLL_S = 0.05


class Supervisor:
    """Handle on the supervisor of ``settings.home``.

    Parameters
    ----------
    settings : Settings
        Passed on to supervisor and agents through their environment.
    module : str
        What is run as the supervisor's process.
    """

    def __init__(self, settings: Settings, *, module: str = "agents.supervisor_process") -> None:
        self._module = module
        self._settings = settings
        self._home = settings.home.resolve()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The supervisor's own log."""
        return self._home / "logs" / "supervisor.log"

    def start(self, *, timeout_s: float = START_SECONDS, wait_for: Sequence[str] | None = None) -> None:
        """Start the system; returns when broker, topics, database and agents (all, or `wait_for`) are ready.

        Raises
        ------
        ConfigurationError
            A supervisor already runs in this home.
        DriftlineError
            What kept the system from starting, as it was raised there; or an agent that keeps failing (names its log).
            Nothing is left running.
        """
        if is_running(self._home):
            raise ConfigurationError(
                f"the system already runs in {self._home}",
                remedy="look at it with `driftline status`, stop it with `driftline down`",
            )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        (self._home / "supervisor.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._settings.environment(),
                # A Ctrl-C in the terminal reaches the owner only; the system stops when told, in order.
                start_new_session=True,
            )
        try:
            self.wait_ready(wait_for, timeout_s=timeout_s)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, names: Sequence[str] | None = None, *, timeout_s: float = START_SECONDS) -> None:
        """Wait until the system runs and the named agents (all by default) work.

        Raises
        ------
        DriftlineError
            Not in time (names who is missing and the logs), or see `check`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            status = read_status(self._home)
            missing = list(names or ["the supervisor"])
            if status is not None and status.state == "running":
                missing = [name for name in names or status.agents if status.agents[name].state != "ready"]
                if not missing:
                    return
            if time.monotonic() > deadline:
                raise DriftlineError(
                    f"not ready within {timeout_s:.0f} s: {', '.join(missing)}",
                    where=str(self.log.parent),
                    remedy="look into the logs there",
                )
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise when the system failed or an agent keeps failing.

        Raises
        ------
        DriftlineError
            The supervisor's failure as it was raised there; or the agent, its exit code, and the end of its log.
        """
        status = read_status(self._home)
        ended = self._process is not None and self._process.poll() is not None
        if status is not None and status.failure is not None:
            failure = status.failure
            kind = getattr(errors, failure.type, DriftlineError)
            raise kind(failure.what, where=failure.where, remedy=failure.remedy)
        if ended or (self._process is None and not is_running(self._home)):
            raise DriftlineError("the supervisor is not running", where=str(self.log), remedy=_last_lines(self.log))
        for name, agent in status.agents.items() if status is not None else ():
            if agent.failures_in_a_row >= GIVE_UP_AFTER:
                raise DriftlineError(
                    f"the {name} agent ended {agent.failures_in_a_row} times in a row (code {agent.last_exit})",
                    where=agent.log,
                    remedy=_last_lines(Path(agent.log)),
                )

    def wait(self) -> None:
        """Wait until the system has stopped (``driftline up`` in the foreground); in order, by whoever told it to.

        Raises
        ------
        DriftlineError
            It did not stop in order (see `check`).
        """
        while self._lives():
            time.sleep(0.2)
        if self._process is None or self._process.returncode != 0:
            self.check()

    def stop(self, *, timeout_s: float = STOP_SECONDS) -> bool:
        """Stop agents, then the broker, in order; whoever started them. False when nothing ran.

        Raises
        ------
        DriftlineError
            It did not stop in time; it was killed, and everything it had started ends with it.
        """
        status = read_status(self._home)
        pid = self._process.pid if self._process is not None else status.pid if status is not None else None
        if pid is None or not self._lives():
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self._lives():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise DriftlineError(f"did not stop within {timeout_s:.0f} s and was killed", where=str(self.log))
            time.sleep(_POLL_S)
        self._process = None
        return True

    def detach(self) -> None:
        """Let the system go on after this process (``--keep``, ``up --detach``)."""
        status = read_status(self._home)
        if status is not None and self._lives():
            os.kill(status.pid, signal.SIGUSR1)
        self._process = None

    def status(self) -> SystemStatus | None:
        """The system's status, None when it does not run."""
        return read_status(self._home) if is_running(self._home) else None

    def pids(self) -> dict[str, int]:
        """Process ids of the agents that run now."""
        status = self.status()
        agents = status.agents if status is not None else {}
        return {name: agent.pid for name, agent in agents.items() if agent.pid is not None}

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to an agent (the demo's disturbance, chaos tests); returns the process id it went to.

        Raises
        ------
        NotFoundError
            No such agent runs now.
        """
        pid = self.pids().get(name)
        if pid is None:
            raise NotFoundError(f"no agent {name!r} runs now", where=str(self._home))
        os.kill(pid, number)
        return pid

    def _lives(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return is_running(self._home)


def _last_lines(log: Path, count: int = 12) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "no log was written"
    return "its log ends:\n    " + "\n    ".join(lines[-count:])
