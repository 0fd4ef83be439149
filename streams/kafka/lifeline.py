"""A wrapper that ends its child when the owner's end of a pipe closes, however the owner ended.

Run as a script, with the standard library only: ``python lifeline.py LOCKFILE STATEFILE COMMAND…``. Standard input is
the pipe; the owner keeps the writing end open and never writes. The lock on LOCKFILE is inherited by the child, so it
is held exactly as long as wrapper or child lives: whoever cannot take it knows that somebody is still there. STATEFILE
is removed as soon as the end begins, so that nobody takes up a child that is going down.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time

# Long: a broker that is killed may lose what was committed (docs/adr/0013), and a busy machine stops one slowly.
STOP_SECONDS = 25.0
LOCK_HELD = 75
_PR_SET_PDEATHSIG = 1


def _die_with_wrapper() -> None:
    """Ask the kernel to kill this child when the wrapper is killed (Linux; elsewhere the pipe has to do)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(lockfile: str, statefile: str, command: list[str]) -> int:
    """Run `command` until it ends or the owner goes; its exit code."""
    lock = os.open(lockfile, os.O_RDWR | os.O_CREAT, 0o600)
    if not _take(lock):
        return LOCK_HELD
    stopping, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(name, lambda *_: None)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_wrapper,  # noqa: PLW1509 - this process has one thread
        pass_fds=(lock,),
        close_fds=True,
    )
    while child.poll() is None:
        ready, _, _ = select.select([0, stopping], [], [])
        received = os.read(stopping, 64) if stopping in ready else b""
        if 0 in ready or signal.SIGTERM in received or signal.SIGINT in received:
            _end(child, statefile)
    return child.returncode


def _take(lock: int) -> bool:
    # Whoever asks whether the lock is held takes it for a moment: try for a while.
    for _ in range(100):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _end(child: subprocess.Popen[bytes], statefile: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(statefile)
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
