"""Where a worker stands in its partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TopicPartition = tuple[str, int]
"""(topic without prefix, partition)."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions at the end of a batch, for every partition that is assigned.

    Parameters
    ----------
    start : mapping of (topic, partition) to int
        Where the batch starts: what is committed (the beginning of the log where nothing is).
    next : mapping of (topic, partition) to int
        Next offset to read. It may be past the last record + 1: transaction markers take offsets too.
    drained : mapping of (topic, partition) to bool
        The end (last stable offset) was reached and nothing came since.
    """

    start: Mapping[TopicPartition, int]
    next: Mapping[TopicPartition, int]
    drained: Mapping[TopicPartition, bool]

    @property
    def moved(self) -> dict[TopicPartition, int]:
        """The next offsets of the partitions whose position moved in this batch."""
        return {tp: offset for tp, offset in self.next.items() if offset != self.start.get(tp)}

    @property
    def all_drained(self) -> bool:
        """Everything that is assigned is drained (false when nothing is assigned)."""
        return bool(self.drained) and all(self.drained.values())
