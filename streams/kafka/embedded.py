"""The embedded broker: Apache Kafka in KRaft mode, one node, on this machine's loopback, from Maven Central's jars.

Owner and users. The process that starts the broker owns it: the broker ends with that process, however the process ends
(see `lifeline`). Other processes find it through the state file in ``home/kafka`` and only use it. Its data stays, and
the next start carries on with it, on the same port where that is free.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from schemas.errors import BrokerError
from streams.kafka import lifeline
from streams.kafka.broker_state import (
    LOCK_FILE,
    STATE_FILE,
    BrokerState,
    alive,
    find_broker,
    held,
    read_state,
    write_state,
)
from streams.kafka.broker_storage import format_storage, java_command, properties_text
from streams.kafka.jars import default_cache, install_jars

__all__ = ["BrokerState", "EmbeddedKafka", "find_broker"]

START_SECONDS = 90.0
_PORT_TRIES = 3
_CLASH = "Address already in use"


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    lifeline: int

    def let_go(self) -> None:
        """Close our end of the pipe: the wrapper takes that as the order to stop."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1


class EmbeddedKafka:
    """One broker per home folder.

    Parameters
    ----------
    home : Path
        Everything lies in ``home/kafka``; the broker's log in ``home/logs/kafka.log``.
    jars_url : str
        See `install_jars`.
    port : int
        0 takes the port of last time or a free one.
    cache_dir : Path, optional
        Where jars are kept; default ``~/.cache/driftline``.

    Notes
    -----
    Ready in some 3 s; 512 MB of heap. `start` in a second process returns the address of the running one.
    """

    def __init__(self, home: Path, *, jars_url: str = "", port: int = 0, cache_dir: Path | None = None) -> None:
        self.home = home.resolve()
        self.folder = self.home / "kafka"
        self._jars_url = jars_url
        self._port = port
        self._cache = (cache_dir or default_cache()).expanduser()
        self._child: _Child | None = None

    def __enter__(self) -> EmbeddedKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """The broker's own log."""
        return self.home / "logs" / "kafka.log"

    @property
    def owned(self) -> bool:
        """Whether this object started the broker, so that it ends with this process."""
        return self._child is not None and self._child.process.poll() is None

    def state(self) -> BrokerState | None:
        """The running broker, or None; a stale state file counts as none."""
        return find_broker(self.home)

    def running(self) -> bool:
        """Whether a broker of this home is up and accepts connections."""
        state = self.state()
        return state is not None and _accepts(state.port)

    def start(self) -> str:
        """Start the broker, or find the one that runs.

        Returns
        -------
        str
            Address for clients, ``127.0.0.1:port``.

        Raises
        ------
        BrokerError
            Jars cannot be had or are altered, the port asked for is taken, or the broker did not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self._starting():
            running = self._running_or_gone()
            if running is not None:
                return running.bootstrap_servers
            if self._child is not None:
                # Ours, and it is gone: somebody stopped or killed it.
                self._child.let_go()
                self._child.process.wait()
                self._child = None
            jars = install_jars(self._cache, source=self._jars_url)
            for attempt in range(_PORT_TRIES):
                port = self._choose_port(fresh=attempt > 0)
                if self._launch(jars, port):
                    return f"127.0.0.1:{port}"
        raise BrokerError(f"no port could be had in {_PORT_TRIES} tries", where=str(self.log))

    def stop(self, timeout_s: float = lifeline.STOP_SECONDS + 5) -> None:
        """Stop the broker in order, whoever started it; nothing happens when none runs."""
        state = self.state()
        if self._child is not None:
            self._child.let_go()
            self._child.process.wait(timeout_s)
            self._child = None
        elif state is not None:
            with suppress(ProcessLookupError):
                os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while held(self._lock_file):
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker did not stop within {timeout_s:.0f} s", where=str(self.log))
            time.sleep(0.05)
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.folder / STATE_FILE

    @property
    def _lock_file(self) -> Path:
        return self.folder / LOCK_FILE

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """One starter at a time per home."""
        with (self.folder / "start.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _running_or_gone(self) -> BrokerState | None:
        """The running broker; waits for one that is just stopping (its owner was killed a moment ago)."""
        deadline = time.monotonic() + lifeline.STOP_SECONDS + 5
        while held(self._lock_file):
            state = read_state(self._state_file)
            if state is not None and alive(state.owner) and _accepts(state.port):
                return state
            if time.monotonic() > deadline:
                raise BrokerError(
                    "a broker of this home holds its lock but does not answer",
                    where=str(self._lock_file),
                    remedy=f"see {self.log}; run `driftline down`, or end process {state.pid if state else '?'}",
                )
            time.sleep(0.1)
        self._state_file.unlink(missing_ok=True)
        return None

    def _choose_port(self, *, fresh: bool) -> int:
        if self._port:
            if fresh or not _free(self._port):
                raise BrokerError(
                    f"port {self._port} is taken",
                    where="the embedded broker",
                    remedy="choose another, or 0 for a free one",
                )
            return self._port
        remembered = self.folder / "port"
        port = 0
        if not fresh:
            with suppress(FileNotFoundError, ValueError):
                port = int(remembered.read_text())
        if not port or not _free(port):
            port = _free_port()
            remembered.write_text(str(port))
        return port

    def _launch(self, jars: list[Path], port: int) -> bool:
        """Start on `port` and wait until it accepts; False when somebody else took a port meanwhile."""
        properties = self.folder / "server.properties"
        properties.write_text(properties_text(self.folder / "data", port, _free_port()), encoding="utf-8")
        java = java_command(jars)
        format_storage(java, properties, self.folder / "data", self._cache)
        since = self.log.stat().st_size if self.log.exists() else 0
        reading, writing = os.pipe()
        command = [*java, f"-Djava.io.tmpdir={self.folder}", "kafka.Kafka", str(properties)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", lifeline.__file__, str(self._lock_file), str(self._state_file), *command],
                stdin=reading,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # A Ctrl-C in the terminal reaches the owner, who stops the broker after its users.
                start_new_session=True,
            )
        os.close(reading)
        self._child = _Child(process, writing)
        # A forked child (multiprocessing) must not keep the pipe open after us.
        os.register_at_fork(after_in_child=self._child.let_go)
        try:
            return self._await(process, port, since)
        except BaseException:
            self._child.let_go()
            process.wait(lifeline.STOP_SECONDS + 5)
            self._child = None
            raise

    def _await(self, process: subprocess.Popen[bytes], port: int, since: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            if _accepts(port):
                write_state(self._state_file, BrokerState(process.pid, port, os.getpid()))
                return True
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker was not ready within {START_SECONDS:.0f} s", where=str(self.log))
            time.sleep(0.05)
        said = self.log.read_bytes()[since:].decode(errors="replace")
        if _CLASH in said:
            return False
        telling = [line for line in said.splitlines() if line.strip() and not line.startswith(("\tat ", "WARNING"))]
        last = "\n".join(telling[-5:])
        raise BrokerError(f"the broker ended with code {process.returncode}: {last}", where=str(self.log))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As the broker itself does: connections of an earlier run in TIME_WAIT are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
