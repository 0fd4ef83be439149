"""The process that forks a child for each model that is checked: ``python -m agents.check_server FD``.

Importing what opens models takes ten times as long as opening one. This process does it once, before it has seen any
model, and stays as it is then: one thread, no network, no store, no keys, no settings; each model is opened in a fork
of it that never answers to it but by ending. `agents.check_client` is the other end.

A request is one message on the socket FD, the kind of the model, with three descriptors: the task, which
`agents.artifact_check` reads as standard input; where the child's standard error goes; and a socket on which the
child's exit code is answered. When the client closes that one, the child and all of its process group are killed. When
FD ends, however the client ended, or nothing was asked for a while, this process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any

_ANY = ("agents.artifact_check", "agents.features", "agents.model_file", "agents.skops_file", "pandas")
LOADED = {b"skops": (*_ANY, "skops.io"), b"onnx": (*_ANY, "agents.onnx_file", "onnx")}
"""What opening a model of a kind needs. Not ONNX's runtime: it starts a thread, and is imported in no time."""
FAILED = 70
_PR_SET_PDEATHSIG = 1


def main(control: socket.socket, idle_s: float) -> None:
    """Serve requests until the client is gone, or none came for `idle_s` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Forks(control, idle_s).serve()


class Forks:
    """The children that run, and the loop that starts and ends them.

    Parameters
    ----------
    control : socket
        Requests come here.
    idle_s : float
    """

    def __init__(self, control: socket.socket, idle_s: float) -> None:
        self._control = control
        self._idle_s = idle_s
        self._answers: dict[int, socket.socket] = {}
        self._loaded: set[bytes] = set()
        self._ended, self._wake = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(self._wake, False)

    def serve(self) -> None:
        """Returns when it is time to end; no child is left then."""
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        since = time.monotonic()
        while True:
            rest = None if self._answers else max(0.0, since + self._idle_s - time.monotonic())
            watched: list[Any] = [self._control, self._ended, *self._answers.values()]
            ready, _, _ = select.select(watched, [], [], rest)
            if not ready and not self._answers:
                return
            with contextlib.suppress(BlockingIOError):
                os.read(self._ended, 4096)
            for child, answers in list(self._answers.items()):
                if answers in ready:  # it closed: nothing is ever said on it
                    self._kill(child)
                else:
                    self._reap(child)
            if self._control in ready and not self._take():
                for child in list(self._answers):
                    self._kill(child)
                return
            if ready:
                since = time.monotonic()

    def _take(self) -> bool:
        """Do what one message asks for; whether there may be more."""
        try:
            kind, received, _, _ = socket.recv_fds(self._control, 64, 3)
        except ConnectionError:
            return False
        if not kind:
            return False
        self._load(kind)
        task, said, answers = received
        self._answers[self._fork(task, said)] = socket.socket(fileno=answers)
        os.close(task)
        os.close(said)
        return True

    def _load(self, kind: bytes) -> None:
        if kind in self._loaded:
            return
        for name in LOADED[kind]:
            with contextlib.suppress(Exception):  # the child finds the same, and says it
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # so that children share this memory
        self._loaded.add(kind)

    def _reap(self, child: int) -> None:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._end_group(child)  # what the model started, too, while the number is still the child's
        _, status = os.waitpid(child, 0)
        with self._answers.pop(child) as answers, contextlib.suppress(OSError):
            answers.send(str(os.waitstatus_to_exitcode(status)).encode())

    def _kill(self, child: int) -> None:
        self._end_group(child)
        os.waitpid(child, 0)
        self._answers.pop(child).close()

    @staticmethod
    def _end_group(child: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)

    def _fork(self, task: int, said: int) -> int:
        server = os.getpid()
        child = os.fork()
        if child:
            with contextlib.suppress(OSError):  # whoever of the two comes first
                os.setpgid(child, child)
            return child
        code = FAILED
        try:
            code = _child(task, said, server)
        except BaseException:  # noqa: BLE001  the child must never return into the server's loop
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)


def _child(task: int, said: int, server: int) -> int:
    """What the fork does: it has three descriptors, no handlers, and ends with the server."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # Depends on the thread that forked; the server has one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        return FAILED
    os.dup2(task, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    from agents.artifact_check import main as check

    return check()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]))
