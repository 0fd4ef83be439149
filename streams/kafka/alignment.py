"""Keeps one topic from running ahead of another while both are read from far behind.

A label read long before its prediction has to wait in the state, at a multiple of what it costs when it comes second.
Brokers give out more records of the topic whose records are smaller, so in a catch-up labels are always ahead. Here
they are held back until the predictions of the same partition have come as far in time. Nothing depends on it but the
cost: the outcome of a join does not depend on how the topics were interleaved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from confluent_kafka import Message

from streams.kafka.batches import timestamps_ms
from streams.kafka.positions import TopicPartition

HOLD_MOST: Final = 20_000
"""Messages held of a partition before no more of it are fetched."""
NEAR: Final = 10_000
"""Offsets that a leader may be behind and still count as caught up: then nothing is held back."""

Lag = Callable[[TopicPartition], int]
_Timestamps = np.ndarray[tuple[int], np.dtype[np.int64]]


class Alignment:
    """Holds back messages of the followers of a leading topic, partition by partition.

    Parameters
    ----------
    leader : str
        Topic that goes first.
    lag : callable
        How many offsets a partition of the leader is behind as of now.

    Notes
    -----
    Timestamps only have to be about right: a partition of the leader that has caught up holds nothing back, whatever
    its producers' clocks say.
    """

    def __init__(self, leader: str, lag: Lag) -> None:
        self.leader = leader
        self._lag = lag
        self._reached_ms: dict[int, int] = {}
        self._caught_up: set[int] = set()
        self._held: dict[TopicPartition, deque[tuple[list[Message], _Timestamps]]] = {}
        self._ends: dict[TopicPartition, Message] = {}
        self._counts: dict[TopicPartition, int] = {}

    def clear(self) -> None:
        """Forget everything: partitions went, or are read again."""
        self._reached_ms, self._held, self._ends, self._counts = {}, {}, {}, {}
        self._caught_up = set()

    def lead(self, partition: int, last: Message) -> None:
        """A partition of the leader has come to `last`."""
        self._caught_up.discard(partition)
        [reached_ms] = timestamps_ms([last]).tolist()
        self._reached_ms[partition] = max(reached_ms, self._reached_ms.get(partition, 0))

    def drained(self, partition: int) -> None:
        """A partition of the leader was read to its end."""
        self._caught_up.add(partition)

    def holds(self, tp: TopicPartition) -> bool:
        """Whether anything of the partition is held back."""
        return tp in self._held or tp in self._ends

    def held(self, tp: TopicPartition) -> int:
        """Messages of the partition that are held back."""
        return self._counts.get(tp, 0)

    def hold(self, tp: TopicPartition, messages: list[Message]) -> None:
        """Messages of a follower; `free` gives back at once what need not wait."""
        # A message of an earlier timestamp behind a later one waits with it: the log's order is kept.
        self._ends.pop(tp, None)
        self._held.setdefault(tp, deque()).append((messages, np.maximum.accumulate(timestamps_ms(messages))))
        self._counts[tp] = self._counts.get(tp, 0) + len(messages)

    def hold_end(self, tp: TopicPartition, end: Message) -> None:
        """A follower's end, told behind messages that are held back."""
        self._ends[tp] = end

    def free(self) -> Iterator[tuple[TopicPartition, list[Message], Message | None]]:
        """What may go on now: messages of a partition, and its end where everything before it has gone."""
        for tp in {*self._held, *self._ends}:
            limit_ms = self._limit_ms(tp[1])
            held = self._held.get(tp, deque())
            out: list[Message] = []
            while held:
                messages, stamps = held[0]
                count = len(messages) if limit_ms is None else int(np.searchsorted(stamps, limit_ms, side="right"))
                out += messages[:count]
                if count < len(messages):
                    held[0] = (messages[count:], stamps[count:])
                    break
                held.popleft()
            end = None
            if not held:
                self._held.pop(tp, None)
                end = self._ends.pop(tp, None)
            self._counts[tp] = self._counts.get(tp, 0) - len(out)
            if out or end is not None:
                yield tp, out, end

    def _limit_ms(self, partition: int) -> int | None:
        """Timestamp up to which followers may go; None: no limit."""
        if partition in self._caught_up:
            return None
        if self._lag((self.leader, partition)) <= NEAR:
            return None
        return self._reached_ms.get(partition, -1)
