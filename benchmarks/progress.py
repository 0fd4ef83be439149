"""How far a consumer group has come, seen from outside: the same measure for every contender."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException

from benchmarks.processes import Child
from streams.kafka.config import KafkaConfig
from streams.kafka.group_offsets import GroupOffsets

Ends = Mapping[tuple[str, int], int]
"""Offset behind the last record, by (topic without prefix, partition)."""

_POLL_S = 0.025


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of work between two commits.

    Parameters
    ----------
    events : int
        Records committed in it.
    seconds : float
        Wall time.
    cpu_seconds : float
        Processor time of the process tree in it.
    peak_rss_bytes : int
        Most memory of the process tree in it.
    waited_s : float
        From the call, or the start of the process when that was later, to the first commit.
    cpu_seconds_process : float
        Processor time of the process tree since it was started.
    """

    events: int
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    waited_s: float
    cpu_seconds_process: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Progress:
    """Committed offsets of one group, asked for over one connection.

    Parameters
    ----------
    kafka : KafkaConfig
    group : str
        Without prefix.
    """

    def __init__(self, kafka: KafkaConfig, group: str) -> None:
        self._group = kafka.group(group)
        self._offsets = GroupOffsets(kafka, group)

    def committed(self, ends: Ends) -> int:
        """Offsets committed in the partitions of `ends`, at most up to these."""
        try:
            at = self._offsets.committed(ends)
        except KafkaException:
            # The coordinator moves: asked again.
            return 0
        return sum(min(at.get(partition, 0), end) for partition, end in ends.items())

    def follow(self, child: Child, ends: Ends, *, start_s: float = 180.0, deadline_s: float = 1800.0) -> Span:
        """Wait from the first commit that moves the group to the one that completes `ends`.

        What comes before the first commit is start-up: it counts neither as time nor as events (unless one commit
        holds everything, as it may with very few records: then all of it counts).

        Raises
        ------
        TimeoutError, RuntimeError
            Not within `start_s` and `deadline_s`; or the child ended.
        """
        called = time.monotonic()
        total = sum(ends.values())
        before = self.committed(ends)
        at_start = before
        while at_start <= before < total:
            self._tick(child, called + start_s, f"no commit of {self._group} within {start_s:.0f} s")
            at_start = max(before, self.committed(ends))
        began, cpu = time.monotonic(), child.cpu_seconds()
        child.forget_peak()
        done = at_start
        while done < total:
            self._tick(child, began + deadline_s, f"{self._group} committed {done} of {total} in {deadline_s:.0f} s")
            done = max(done, self.committed(ends))
        ended, cpu_end = time.monotonic(), child.cpu_seconds()
        waiting_since = max(called, child.started_at)
        waited_s = began - waiting_since
        if at_start == total:
            # All of it in one commit: the wait for it is the only time there is, start-up included.
            at_start, began, cpu = before, waiting_since, 0.0
        return Span(
            events=total - at_start,
            seconds=max(ended - began, _POLL_S),
            cpu_seconds=cpu_end - cpu,
            peak_rss_bytes=child.peak_rss_bytes,
            waited_s=waited_s,
            cpu_seconds_process=cpu_end,
        )

    def _tick(self, child: Child, deadline: float, late: str) -> None:
        child.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{late}; the end of {child.log}:\n{child.tail()}")
        time.sleep(_POLL_S)
