"""The supervisor's own process: broker, topics, database, then every agent, kept alive until told to stop.

Started by `agents.supervisor.Supervisor` as ``python -m agents.supervisor_process OWNER``. It ends when its owner
ends, unless told by SIGUSR1 to stay. Everything it starts ends with it, also when it is killed: agents watch their
parent, the broker hangs on a lifeline.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from agents.config import Settings, load_settings
from agents.prepare import create_topics, migrate
from agents.runtime import AGENTS, FIRST_WAVE, clear_ready, configure_log, is_ready
from agents.supervisor_status import AgentStatus, Failure, SystemStatus, take_lock, write_status
from schemas.errors import BrokerError, ConfigurationError, DriftlineError
from streams.kafka.embedded import EmbeddedKafka

FIRST_BACK_OFF_S = 0.2
LONGEST_BACK_OFF_S = 30.0
STEADY_S = 60.0
"""An agent that worked for so long starts over with the shortest back-off."""
STOP_SECONDS = 15.0
_TICK_S = 0.1
_LOG_BYTES = 20_000_000
_SPARE = {
    # Two threads of OpenMP spinning for each other on a busy core cost more than they give.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_ARENA_MAX": "2",
}

_log = logging.getLogger("driftline.supervisor")


class _Agent:
    """One agent's process and when to start it again."""

    def __init__(self, name: str, command: list[str], settings: Settings, environment: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._settings = settings
        self._environment = environment
        self.status = AgentStatus(log=str(settings.home.resolve() / "logs" / f"{name}.log"))
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._due = 0.0

    @property
    def started(self) -> bool:
        """Whether it was started at least once."""
        return self._started > 0

    def start(self) -> None:
        clear_ready(self._settings, self.name)
        log = Path(self.status.log)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment,
            )
        self._started = time.monotonic()
        self.status.pid, self.status.state = self._process.pid, "starting"

    def look(self) -> bool:
        """Notice readiness and ends, start again when due; whether the status changed."""
        if self._process is None:
            if self.status.state == "waiting" and time.monotonic() >= self._due:
                self.status.restarts += 1
                self.start()
                return True
            return False
        code = self._process.poll()
        if code is None:
            return self._look_alive()
        self._process = None
        self.status.pid, self.status.last_exit, self.status.state = None, code, "waiting"
        self.status.failures_in_a_row += 1
        pause = min(FIRST_BACK_OFF_S * 2 ** (self.status.failures_in_a_row - 1), LONGEST_BACK_OFF_S)
        self._due = time.monotonic() + pause
        _log.warning("%s ended with code %d; starts again in %.1f s; see %s", self.name, code, pause, self.status.log)
        return True

    def _look_alive(self) -> bool:
        changed = False
        if self.status.state == "starting" and is_ready(self._settings, self.name, self.status.pid):
            self.status.state, changed = "ready", True
            _log.info("%s is ready after %.1f s", self.name, time.monotonic() - self._started)
        if self.status.failures_in_a_row and time.monotonic() - self._started > STEADY_S:
            self.status.failures_in_a_row, changed = 0, True
        return changed

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the end until `deadline`, then make it."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("%s did not stop in order: killed", self.name)
                self._process.kill()
                self._process.wait()
            self.status.last_exit = self._process.returncode
        self._process, self.status.pid, self.status.state = None, None, "stopped"
        clear_ready(self._settings, self.name)


class SupervisorProcess:
    """Keeps the system of one home running.

    Parameters
    ----------
    settings : Settings
    owner : int
        Process id of the parent whose end is our end; 0 for none.
    """

    names: tuple[str, ...] = AGENTS
    first_wave: tuple[str, ...] = FIRST_WAVE
    first_wave_s = 20.0
    """The others start after so long, whatever became of the first wave."""

    def __init__(self, settings: Settings, owner: int) -> None:
        self._settings = settings
        self._home = settings.home.resolve()
        self._owner = owner
        self._broker: EmbeddedKafka | None = None
        self._broker_due = 0.0
        self._status = SystemStatus(os.getpid(), started_at_ms=int(time.time() * 1000))
        environment = {**_SPARE, **settings.environment()}
        self._agents = [_Agent(name, self.command(name), settings, environment) for name in self.names]
        self._status.agents = {agent.name: agent.status for agent in self._agents}
        self._stopping = False
        self._began = 0.0

    def run(self) -> int:
        """Start everything, keep it running, stop it in order; the exit code."""
        (self._home / "logs").mkdir(parents=True, exist_ok=True)
        (self._home / "run").mkdir(parents=True, exist_ok=True)
        self._say()
        wake = self._listen()
        try:
            self._prepare()
            self._status.state = "running"
            self._began = time.monotonic()
            self._say()
            while not self._stopping and not self._orphaned():
                self._look()
                select.select([wake], [], [], _TICK_S)
                self._drain(wake)
        except DriftlineError as error:
            _log.error("%s", error)
            self._status.failure = Failure(type(error).__name__, error.what, error.where, error.remedy)
            return error.exit_code
        except Exception as error:  # noqa: BLE001 - whatever it is, the owner is told and all is stopped
            _log.exception("the supervisor failed")
            self._status.failure = Failure(
                "DriftlineError", f"the supervisor failed: {error}", str(self._home / "logs")
            )
            return 1
        finally:
            self._stop()
        return 0

    def command(self, name: str) -> list[str]:
        """How the agent `name` is started."""
        return [sys.executable, "-m", "agents.launch", name, str(os.getpid())]

    def migrate(self) -> None:
        """Bring the database to this version's tables."""
        migrate(self._settings)

    def _prepare(self) -> None:
        """Broker and database side by side, then the topics."""
        failures: list[BaseException] = []

        def start_broker() -> None:
            try:
                self._start_broker()
            except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
                failures.append(error)

        starting = threading.Thread(target=start_broker, name="broker-start")
        starting.start()
        try:
            self.migrate()
        finally:
            starting.join()
        if failures:
            raise failures[0]
        self._status.bootstrap_servers = create_topics(self._settings)

    def _start_broker(self) -> None:
        if self._settings.bootstrap_servers:
            return
        self._broker = EmbeddedKafka(
            self._home,
            jars_url=self._settings.jars_url,
            cache_dir=self._settings.jars_cache,
            port=self._settings.kafka_port,
        )
        _log.info("Kafka answers at %s", self._broker.start())

    def _listen(self) -> int:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGTERM, lambda *_: self._order_stop())
        signal.signal(signal.SIGINT, lambda *_: self._order_stop())
        signal.signal(signal.SIGUSR1, lambda *_: self._let_owner_go())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return reading

    @staticmethod
    def _drain(wake: int) -> None:
        try:
            os.read(wake, 4096)
        except BlockingIOError:
            return

    def _order_stop(self) -> None:
        self._stopping = True

    def _let_owner_go(self) -> None:
        self._owner = 0

    def _orphaned(self) -> bool:
        if self._owner and os.getppid() != self._owner:
            _log.warning("the owner (process %d) is gone: stopping", self._owner)
            return True
        return False

    def _look(self) -> None:
        started = self._start_due()
        changed = [agent.look() for agent in self._agents]
        if started or any(changed):
            self._say()
        if self._broker is not None and not self._broker.owned and time.monotonic() >= self._broker_due:
            self._restart_broker()

    def _start_due(self) -> bool:
        """Start the first wave at once, the others when it works; whether any was started."""
        first = [agent for agent in self._agents if agent.name in self.first_wave]
        late = time.monotonic() - self._began > self.first_wave_s
        all_of_them = late or all(agent.status.state == "ready" for agent in first)
        due = [agent for agent in (self._agents if all_of_them else first) if not agent.started]
        for agent in due:
            agent.start()
        return bool(due)

    def _restart_broker(self) -> None:
        assert self._broker is not None
        _log.warning("the broker is gone: starting it again; see %s", self._broker.log)
        try:
            self._broker.start()
        except BrokerError as error:
            _log.error("%s", error)
            self._broker_due = time.monotonic() + 5.0

    def _stop(self) -> None:
        """Agents first, all at once, then the broker they use."""
        self._status.state = "stopping"
        self._say()
        for agent in self._agents:
            agent.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for agent in self._agents:
            agent.end(deadline)
        if self._broker is not None:
            self._broker.stop()
        self._status.state = "failed" if self._status.failure else "stopping"
        self._say()

    def _say(self) -> None:
        write_status(self._home, self._status)


def main(owner: int, process: type[SupervisorProcess] = SupervisorProcess) -> int:
    """Take the home's lock and run; the exit code."""
    settings = load_settings()
    configure_log(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = take_lock(settings.home)
    if lock is None:
        error = ConfigurationError(
            f"another supervisor runs in {settings.home.resolve()}", remedy="stop it with `driftline down`"
        )
        _log.error("%s", error)
        return error.exit_code
    return process(settings, owner).run()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
