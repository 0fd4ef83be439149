"""The real monitoring worker under measurement: started, followed from commit to commit, checked, stopped.

Example
-------
A phase after another, on a broker that holds the traffic already::

    with Worker(settings) as worker:
        loaded = worker.work_off(end_offsets(worker.kafka, (PREDICTIONS,)))
        ...
        labelled = worker.work_off(end_offsets(worker.kafka, TOPICS))
    check_totals(worker.kafka, predictions=n, labelled=n)
"""

from __future__ import annotations

import sys
from types import TracebackType

from agents.config import Settings
from agents.monitoring.totals import newest_totals
from benchmarks.processes import Child
from benchmarks.progress import Ends, Progress, Span
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.config import KafkaConfig

TOPICS = (PREDICTIONS, GROUND_TRUTH)
GROUP = "monitoring-join"


class Worker:
    """One `driftline agent monitoring` process.

    Parameters
    ----------
    settings : Settings
        Address, prefix, home folder and everything else the process is to see. Two workers of one installation
        differ in `slot`.

    Notes
    -----
    Leaving the ``with`` statement ends the process, also after an error. The log is ``home/monitoring-SLOT.log``.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.bootstrap_servers is not None
        self.settings = settings
        self.kafka = KafkaConfig(settings.bootstrap_servers, prefix=settings.prefix)
        self.child = Child(
            [sys.executable, "-m", "agents.cli", "agent", "monitoring"],
            settings.home / f"monitoring-{settings.slot}.log",
            environment=settings.environment(),
        )
        self._progress = Progress(self.kafka, GROUP)

    def __enter__(self) -> Worker:
        self.child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.__exit__(kind, error, trace)

    def work_off(self, ends: Ends, *, deadline_s: float = 1800.0) -> Span:
        """Wait until `ends` are committed; measured from the first commit that moves on.

        Raises
        ------
        TimeoutError, RuntimeError
        """
        return self._progress.follow(self.child, ends, deadline_s=deadline_s)

    def committed(self, ends: Ends) -> int:
        """Records committed so far."""
        return self._progress.committed(ends)

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()


def check_totals(kafka: KafkaConfig, **expected: int) -> dict[str, int]:
    """The join's accounting; raises unless it says what is expected (``labels_matched`` for ``labels.matched``).

    Raises
    ------
    AssertionError
    """
    totals = newest_totals(kafka)
    wanted = {name.replace("labels_", "labels."): count for name, count in expected.items()}
    wrong = {name: totals.get(name, 0) for name, count in wanted.items() if totals.get(name, 0) != count}
    if wrong:
        raise AssertionError(f"expected {wanted}, counted {wrong}")
    return totals
