"""Workers at work: when they are ready, who holds partitions, and how long a full log takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from agents.runtime import is_ready
from benchmarks.bulk import Records
from benchmarks.gate import Gate
from benchmarks.progress import Ends, Progress, Span
from benchmarks.worker import GROUP, Worker
from streams.kafka.config import KafkaConfig

_POLL_S = 0.02


class Membership:
    """The members of the join's group, as its coordinator sees them."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._group = kafka.group(GROUP)
        self._admin = AdminClient(kafka.common())

    def holders(self) -> dict[str, int]:
        """Partitions by member id, for members that hold any."""
        try:
            [future] = self._admin.describe_consumer_groups([self._group], request_timeout=10).values()
            members = future.result(10).members
        except KafkaException:
            return {}
        counts = {member.member_id: len(member.assignment.topic_partitions) for member in members if member.assignment}
        return {name: count for name, count in counts.items() if count}


def wait_ready(worker: Worker, timeout_s: float = 600.0) -> float:
    """Wait until the worker's process said that it works: partitions assigned, state restored. Seconds waited.

    Raises
    ------
    TimeoutError, RuntimeError
    """
    return wait_until(
        lambda: is_ready(worker.settings, "monitoring", worker.child.pid),
        [worker],
        "the worker is not ready",
        timeout_s,
    )


def wait_until(
    true: Callable[[], bool], workers: Sequence[Worker], late: str, timeout_s: float = 600.0, poll_s: float = _POLL_S
) -> float:
    """Wait for a condition while the workers live; seconds waited.

    Raises
    ------
    TimeoutError
        With the end of the first worker's log.
    RuntimeError
        A worker ended.
    """
    began = time.monotonic()
    while not true():
        for worker in workers:
            worker.child.check()
        if time.monotonic() - began > timeout_s:
            log = workers[0].child
            raise TimeoutError(f"{late} after {timeout_s:.0f} s; the end of {log.log}:\n{log.tail()}")
        time.sleep(poll_s)
    return time.monotonic() - began


class Course:
    """A log that is filled behind a gate, and workers that are let in.

    Parameters
    ----------
    kafka : KafkaConfig
    workers : sequence of Worker
        Running and ready.
    """

    def __init__(self, kafka: KafkaConfig, workers: Sequence[Worker]) -> None:
        self._kafka = kafka
        self._workers = workers
        self._progress = Progress(kafka, GROUP)

    def take(
        self,
        records: Iterable[tuple[str, Iterable[Records]]],
        *,
        filled: Callable[[int], None] = lambda _: None,
        deadline_s: float = 1_800.0,
    ) -> Span:
        """Fill the log with (topic, chunks), open the gate and wait until the workers have committed all of it.

        Time runs from the moment the gate opens to the last commit. `filled` is told how many records there are.

        Raises
        ------
        TimeoutError, RuntimeError
        """
        with Gate(self._kafka) as gate:
            count = sum(gate.send(topic, chunks) for topic, chunks in records)
            ends = gate.filled()
            filled(count)
            for worker in self._workers:
                worker.child.forget_peak()
            cpu, began = self._cpu_seconds(), time.monotonic()
            gate.open()
            self.finish(ends, deadline_s)
        seconds, after = time.monotonic() - began, self._cpu_seconds()
        return Span(
            events=count,
            seconds=seconds,
            cpu_seconds=after - cpu,
            peak_rss_bytes=sum(worker.child.peak_rss_bytes for worker in self._workers),
            waited_s=0.0,
            cpu_seconds_process=after,
        )

    def finish(self, ends: Ends, deadline_s: float = 1_800.0) -> None:
        """Wait until everything up to `ends` is committed.

        Raises
        ------
        TimeoutError, RuntimeError
        """
        total = sum(ends.values())
        late = f"of {total:,} offsets not all are committed"
        wait_until(lambda: self.committed(ends) >= total, self._workers, late, deadline_s)

    def committed(self, ends: Ends) -> int:
        """Offsets committed so far."""
        return self._progress.committed(ends)

    def _cpu_seconds(self) -> float:
        return sum(worker.child.cpu_seconds() for worker in self._workers)
