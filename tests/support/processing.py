"""A batch handler that copies records and remembers what was asked of it, and topics to run it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from schemas.topics import Topic
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record


def scratch_topic(name: str, scale: Literal["traffic", "control"] = "traffic") -> Topic:
    """A topic that exists only in a test."""
    return Topic(name, "anything", scale, -1, False, "test")


class Copier:
    """Copies values to `target` and keeps the keys it has seen per partition: state through an overlay."""

    def __init__(self, target: str = "copies") -> None:
        self.target = target
        self.state: dict[tuple[str, int], list[bytes]] = {}
        self.overlay: list[Record] = []
        self.positions: list[Positions] = []
        self.batches: list[int] = []
        self.commits: list[dict[TopicPartition, int]] = []
        self.aborts = 0
        self.restored: list[tuple[list[int], dict[TopicPartition, int | None]]] = []
        self.releases: list[list[int]] = []
        self.wanted = False
        self.failure: BaseException | None = None

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        self.restored.append((list(partitions), dict(committed)))
        return None

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        if self.failure is not None and records:
            raise self.failure
        self.overlay = list(records)
        self.positions.append(positions)
        self.batches.append(len(records))
        return [Output(self.target, record.value, record.key, record.headers) for record in records]

    def wants_commit(self) -> bool:
        wanted, self.wanted = self.wanted, False
        return wanted

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        for record in self.overlay:
            self.state.setdefault((record.topic, record.partition), []).append(record.value or b"")
        self.overlay = []
        self.commits.append(dict(offsets))

    def aborted(self) -> None:
        self.overlay = []
        self.aborts += 1

    def released(self, partitions: Sequence[int]) -> None:
        self.releases.append(list(partitions))

    def values(self) -> list[bytes]:
        """Everything that counted."""
        return [value for values in self.state.values() for value in values]
