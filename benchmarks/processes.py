"""Children that are measured: the processor time and memory of a process and everything below it, from ``/proc``."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_S = 0.2


def tree(root: int) -> list[int]:
    """`root` and everything below it that lives now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, next_ones = [], [root]
    while next_ones:
        pid = next_ones.pop()
        found.append(pid)
        next_ones += children.get(pid, ())
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, with that of children it has waited for."""
    return sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := _stat(pid)) is not None) / _TICKS


def rss_bytes(root: int) -> int:
    """Resident memory of the tree now; pages that processes share count once for each."""
    total = 0
    for pid in tree(root):
        with suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return total


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from the state on (state, parent, …); None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class Child:
    """A process that is started, watched and ended, whatever happens.

    Parameters
    ----------
    command : sequence of str
    log : Path
        Gets standard output and standard error.
    environment : mapping, optional
        All of the child's environment; default: ours.

    Attributes
    ----------
    peak_rss_bytes : int
        Most memory of the tree since the start or the last `forget_peak`, sampled five times a second.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.peak_rss_bytes = 0
        self._environment = dict(environment) if environment is not None else None
        self._folder = folder
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def __enter__(self) -> Child:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                self.command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "use it in a with statement"
        return self._process

    @property
    def pid(self) -> int:
        """Its id."""
        return self.process.pid

    def check(self) -> None:
        """Nothing while it runs.

        Raises
        ------
        RuntimeError
            It ended; with the end of its log.
        """
        if (code := self.process.poll()) is not None:
            raise RuntimeError(f"{Path(self.command[0]).name} ended with {code}:\n{self.tail()}")

    def tail(self, size: int = 2_000) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-size:]

    def cpu_seconds(self) -> float:
        """Processor time of the tree so far."""
        return cpu_seconds(self.pid)

    def forget_peak(self) -> None:
        """Measure the peak of memory anew."""
        self.peak_rss_bytes = rss_bytes(self.pid)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(30)
        self._over.set()

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, wait, then SIGKILL."""
        self._over.set()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes(self.pid))


@contextmanager
def cores(count: int | None) -> Iterator[list[int]]:
    """Keep this process, and every child it starts meanwhile, on the first `count` cores (None: all it may use).

    What is compared runs on the same cores, the broker included.
    """
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[:count]
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)
