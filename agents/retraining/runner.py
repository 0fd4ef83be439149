"""Takes runs from the database and has the worker process execute them, one at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.retraining import jobs
from agents.retraining.threads import thread_limit
from schemas.errors import ConflictError

LEASE_S = 30.0
UNDECIDED_S = 120.0
Offsets = Mapping[tuple[str, int], int]
log = logging.getLogger("driftline.retraining")


class Worker(Protocol):
    """What executes a run."""

    def start(self, run_id: str, owner: str) -> None: ...

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Current:
    run_id: str
    offsets: Offsets
    archive_deadline: float
    deadline: float
    renewed: float
    training: bool = False


class Runner:
    """Leases runs and follows them; `tick` is called again and again and never waits.

    Parameters
    ----------
    settings : Settings
    sessions : Sessions
    end_offsets : callable
        End offsets of the archived traffic, now.
    covers : callable
        Whether the archive has reached given offsets (session, offsets).
    worker : Worker, optional
    clock : callable
        Seconds, the system's clock: leases are compared between machines.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        end_offsets: Callable[[], Offsets],
        covers: Callable[[Any, Offsets], bool],
        *,
        worker: Worker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._readers = session_factory(sessions.kw["bind"], read_only=True)
        self._end_offsets = end_offsets
        self._covers = covers
        self._worker = worker or ProcessWorker(settings)
        self._clock = clock
        self._owner = f"{settings.slot}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._current: _Current | None = None
        self._checked = 0.0

    def tick(self) -> None:
        """One step: take a run, start it when the archive is complete, follow it, put away what ended."""
        now = self._clock()
        if self._current is None:
            self._take(now)
        if self._current is not None:
            self._follow(self._current, now)
        if now - self._checked > UNDECIDED_S / 10:
            self._checked = now
            self._give_up_undecided(now)

    def close(self) -> None:
        """Kill what runs; its lease is given back, so that the next agent starts it again at once."""
        self._worker.close()
        if self._current is not None:
            with self._sessions.begin() as session:
                jobs.give_back(session, self._current.run_id, self._owner, "the agent was stopped", now=self._clock())
            self._current = None

    def _take(self, now: float) -> None:
        with self._readers() as session:
            run_id = jobs.waiting(session, now)
        if run_id is None:
            return
        offsets = self._end_offsets()
        with self._sessions.begin() as session:
            if not jobs.lease(session, run_id, self._owner, now=now, seconds=LEASE_S):
                return
        patience = self._settings.archive_max_age_ms / 1000 + 60
        limit = self._settings.training_timeout_ms / 1000
        self._current = _Current(run_id, offsets, now + patience, now + patience + limit, now)
        log.info("run %s taken", run_id)

    def _follow(self, current: _Current, now: float) -> None:
        if not current.training:
            with self._readers() as session:
                complete = self._covers(session, current.offsets)
            if complete:
                current.training = True
                self._worker.start(current.run_id, self._owner)
            elif now > current.archive_deadline:
                self._put_back("the archive has not reached what was on the topics when the run began", now)
                return
        else:
            code = self._worker.poll()
            if code is not None:
                self._ended(code, now)
                return
            if now > current.deadline:
                self._worker.kill()
                self._put_back(f"the training took longer than {self._settings.training_timeout_ms / 1000:g} s", now)
                return
        if now - current.renewed > LEASE_S / 3:
            current.renewed = now
            with self._sessions.begin() as session:
                mine = jobs.renew(session, current.run_id, self._owner, now=now, seconds=LEASE_S)
            if not mine:
                # Ended by its worker a moment ago, or taken over: either way not ours to follow. Whoever is killed here
                # answers no more: to go on waiting for its word would keep every later run from starting.
                if current.training and self._worker.poll() is None:
                    self._worker.kill()
                self._current = None

    def _ended(self, code: int, now: float) -> None:
        if code == 0:
            self._current = None
            return
        how = f"signal {-code}" if code < 0 else f"code {code}"
        self._put_back(f"the training process ended with {how}", now)

    def _put_back(self, why: str, now: float) -> None:
        assert self._current is not None
        with self._sessions.begin() as session:
            again = jobs.give_back(session, self._current.run_id, self._owner, why, now=now)
        log.warning("run %s: %s%s", self._current.run_id, why, "; it is tried again" if again else "")
        self._current = None

    def _give_up_undecided(self, now: float) -> None:
        before = datetime.fromtimestamp(now, UTC) - timedelta(seconds=UNDECIDED_S)
        with self._readers() as session:
            stuck = jobs.undecided(session, before)
        for run_id in stuck:
            with self._sessions.begin() as session:
                jobs.give_up(session, run_id, f"the registry has not decided within {UNDECIDED_S:g} s")


class ProcessWorker:
    """`agents.retraining.worker` as a child process, started with the first run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: SimpleQueue[int | None] = SimpleQueue()
        self._running = False

    def start(self, run_id: str, owner: str) -> None:
        """Start a run.

        Raises
        ------
        ConflictError
            One is running.
        """
        if self._running:
            raise ConflictError("the worker is busy", where=f"run {run_id}")
        if self._process is None or self._process.poll() is not None:
            self._spawn()
        self._running = True
        self._send({"run_id": run_id, "owner": owner})

    def poll(self) -> int | None:
        """Exit code of the run, negative for a signal; None while it goes on."""
        try:
            code = self._answers.get_nowait()
        except Empty:
            return None
        self._running = False
        if code is None:
            process, self._process = self._process, None
            code = process.wait() if process is not None else 1
            return code or 1
        return code

    def kill(self) -> None:
        """Kill the run, with its process: nothing of it can answer later."""
        self.close()

    def close(self) -> None:
        """End the process and whatever runs in it."""
        process, self._process = self._process, None
        self._running = False
        self._answers = SimpleQueue()
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> None:
        environment = self._settings.environment()
        # Passive waiting and few threads: the hot path works on the same cores.
        for name, value in (
            ("OMP_WAIT_POLICY", "PASSIVE"),
            ("OMP_NUM_THREADS", str(thread_limit())),
            ("OPENBLAS_NUM_THREADS", "1"),
        ):
            environment.setdefault(name, value)
        self._answers = SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agents.retraining.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        threading.Thread(target=_listen, args=(self._process, self._answers), name="worker", daemon=True).start()

    def _send(self, task: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            # It died: the listener says so, and the run is tried again.
            log.warning("the worker process is gone")


def _listen(process: subprocess.Popen[bytes], answers: SimpleQueue[int | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(int(json.loads(line)["code"]))
    answers.put(None)
