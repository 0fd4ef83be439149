"""The one transactional batch processor: read a batch, compute, write outputs and offsets in one Kafka transaction.

Order of a batch, everywhere the same: overlay in memory → produce → flush → offsets to the transaction → commit →
local checkpoint. The checkpoint is therefore never ahead of the committed offsets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streams.kafka.config import KafkaConfig
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record


class BatchHandler(Protocol):
    """What is computed; the processor decides when, and whether it counts."""

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        """Bring the state of newly assigned partitions to the committed offsets.

        Called outside the rebalance callback with nothing being fetched. `committed` is None where the group has
        committed nothing yet. May return offsets to start from instead of the committed ones.

        Raises
        ------
        StateError, RetentionPassedError
            End the process: a person has to decide.
        """

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        """Compute one batch into an overlay and return what to write.

        `records` may span partitions; the order within a partition is the log's. It is empty when a partition became
        drained, when positions moved over transaction markers only, and every `idle_ms` while nothing arrives. Whatever
        is raised here ends the process and nothing of the batch is committed.
        """

    def wants_commit(self) -> bool:
        """Whether the batch must be committed although it has neither outputs nor moved positions."""

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The batch counts: apply the overlay to the state, then write the checkpoint with `offsets`.

        `offsets` holds the partitions whose position moved.
        """

    def aborted(self) -> None:
        """The batch does not count: drop the overlay. The records come again."""

    def released(self, partitions: Sequence[int]) -> None:
        """The partitions went to another worker: close their state. Called before the group goes on."""


@dataclass(frozen=True)
class ProcessorOptions:
    """How a processor batches and how long it waits.

    Parameters
    ----------
    batch_records : int
        Most records in one batch.
    commit_interval_ms : int
        Longest a batch is collected. It is not waited for when everything assigned is drained.
    idle_ms : int
        Time between empty batches while nothing arrives.
    max_poll_interval_ms : int
        A worker that is away for longer (restore included) loses its partitions.
    session_timeout_ms : int
        A worker that is dead for so long loses its partitions.
    transaction_timeout_ms : int
        The broker aborts a hung transaction after it; readers of committed records wait for that.
    operation_timeout_ms : int
        Limit of each request to the broker (initialise, read committed offsets, commit).
    co_partitioned : bool
        Check that partition p of every topic is assigned to the same worker.
    """

    batch_records: int = 20_000
    commit_interval_ms: int = 100
    idle_ms: int = 1_000
    max_poll_interval_ms: int = 300_000
    session_timeout_ms: int = 10_000
    transaction_timeout_ms: int = 10_000
    operation_timeout_ms: int = 30_000
    co_partitioned: bool = False


class BatchProcessor:
    """Runs a `BatchHandler` over topics, exactly once.

    Parameters
    ----------
    config : KafkaConfig
    group : str
        Consumer group, without prefix.
    topics : sequence of str
        Topics to read, without prefix.
    transactional_id : str
        Stable per worker slot, without prefix: a successor with the same id fences this worker.
    handler : BatchHandler
    options : ProcessorOptions
    clock : callable
        Seconds since the epoch; comes to the handler as `now_ms`.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        group: str,
        topics: Sequence[str],
        transactional_id: str,
        handler: BatchHandler,
        options: ProcessorOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._group = group
        self._topics = tuple(topics)
        self._transactional_id = transactional_id
        self._handler = handler
        self._options = options or ProcessorOptions()
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Process until `stop` is set."""
        raise NotImplementedError

    def step(self, timeout_s: float = 0.1) -> bool:
        """One iteration: wait for records at most `timeout_s`, process and commit them. True if it committed."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave the group; nothing uncommitted counts."""
        raise NotImplementedError
