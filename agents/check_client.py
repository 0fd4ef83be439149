"""Opens models in children of a process that is loaded once (`agents.check_server`), started with the first of them.

Where there is no such process (it forks, which is safe with these libraries on Linux only), or it is gone in the middle
of a check, a process of its own is started for that one model: the same, but that importing takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agents.config import bare_environment

IDLE_S = 60.0
"""The server takes some 200 MB: models come in groups (an agent's start, a fleet's promotion), or once in hours."""
FORKING = sys.platform == "linux"
_SAID_BYTES = 65536
# Without its thread for freed memory, which a fork would not have: see the allocator of Arrow.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class CheckServer:
    """A server process that is started when it is needed; safe to use from several threads.

    Parameters
    ----------
    idle_s : float
        The process ends when nothing was asked of it for so long.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        """The server that was started last, which may have ended."""
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        """Process id of the server that runs; None where none does."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def run(self, kind: str, task: Sequence[bytes], timeout_s: float) -> tuple[int, bytes]:
        """Give a task to a child of the server.

        Parameters
        ----------
        kind : str
            What the server has to load first: ``skops`` or ``onnx``.
        task : sequence of bytes
            Standard input of the child, in pieces.
        timeout_s : float
            The child is killed after it, with all that it started.

        Returns
        -------
        tuple of int and bytes
            Exit code, negative for a signal, and the last of what the child wrote to standard error.

        Raises
        ------
        TimeoutError
            The child did not end in time.
        ConnectionError
            The server ended meanwhile; the child does with it.
        """
        deadline = time.monotonic() + timeout_s
        answer, answering = socket.socketpair()
        with answer, answering, os.fdopen(os.memfd_create("task"), "wb") as given:
            given.writelines(task)
            given.flush()
            given.seek(0)
            said, saying = os.pipe()
            with open(said, "rb", buffering=0) as errors:
                try:
                    self._send(kind.encode(), [given.fileno(), saying, answering.fileno()])
                finally:
                    os.close(saying)
                    answering.close()
                return _answer(answer, errors.fileno(), deadline)

    def close(self) -> None:
        """End the server, and whatever runs in it."""
        with self._lock:
            if self._control is not None:
                self._control.close()
            process, self._control, self.process = self.process, None, None
        if process is not None and self._owner == os.getpid():
            process.wait()

    def _send(self, kind: bytes, descriptors: list[int]) -> None:
        with self._lock:
            if self._owner != os.getpid():  # a fork of whoever started it: the server is not ours
                self._control = self.process = None
                self._owner = os.getpid()
            if self._control is not None and self.process is not None and self.process.poll() is None:
                with contextlib.suppress(ConnectionError):  # it ended just now
                    socket.send_fds(self._control, [kind], descriptors)
                    return
            self._start()
            assert self._control is not None
            socket.send_fds(self._control, [kind], descriptors)

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
        # Messages keep their bounds, and whoever reads one gets the descriptors that came with it.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.check_server", str(theirs.fileno()), str(self._idle_s)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**bare_environment(), **_ENVIRONMENT},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for the client
            )
        # It ends by itself: somebody has to notice, or it stays in the list of processes.
        threading.Thread(target=self.process.wait, name="check-server", daemon=True).start()


def _answer(answer: socket.socket, errors: int, deadline: float) -> tuple[int, bytes]:
    """Read both until the exit code has come and nothing more is written."""
    said = b""
    code: int | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(answer, selectors.EVENT_READ)
        selector.register(errors, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is answer:
                    received = answer.recv(16)
                    if not received:
                        raise ConnectionError("the server ended")
                    code = int(received)
                    selector.unregister(answer)
                elif more := os.read(errors, _SAID_BYTES):
                    said = (said + more)[-_SAID_BYTES:]
                else:
                    selector.unregister(errors)
    assert code is not None
    return code, said


_server = CheckServer()


def checked(kind: str, task: Mapping[str, Any], data: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Do a task of `agents.artifact_check` in a child process.

    Parameters
    ----------
    kind : str
        ``skops`` or ``onnx``.
    task : mapping
        What `agents.artifact_check` is told.
    data : bytes
        The model.
    timeout_s : float

    Returns
    -------
    tuple of int and bytes
        As `CheckServer.run`.

    Raises
    ------
    TimeoutError
        The child did not end in time; it was killed.
    """
    environment = bare_environment()
    path = [] if sys.flags.safe_path else [os.getcwd()]
    path += filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    given = [json.dumps({**task, "folder": os.getcwd(), "path": path}).encode(), b"\n", data]
    deadline = time.monotonic() + timeout_s
    if FORKING:
        with contextlib.suppress(ConnectionError):
            return _server.run(kind, given, timeout_s)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agents.artifact_check"],
            input=b"".join(given),
            capture_output=True,
            env=environment,
            timeout=max(0.0, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    return done.returncode, done.stderr
