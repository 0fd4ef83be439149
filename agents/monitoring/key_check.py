"""Samples keys against their partition: a producer with another partitioner parts predictions from their labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from agents.monitoring.outputs import AGAIN_MS, event_output
from schemas.codec import derived_id, utc
from schemas.events import Observation
from streams.join.partitioning import partition_of
from streams.kafka.records import Output, Record

SUBJECT: Final = "partitioner"
SETTING: Final = "partitioner=murmur2_random"
_SAMPLES_A_BATCH: Final = 16

_log = logging.getLogger("driftline.monitoring")


class KeyCheck:
    """Remembers which topics were found mis-partitioned, and says so again while they are, twice a day of event time.

    Parameters
    ----------
    partitions : int
        Of the traffic topics.

    Notes
    -----
    The observation's id is derived from topic, partition count and half day: said again after a restart, it is the same
    one. What an aborted batch said counts as not said. Nobody says that it ended: whoever listens hears no more of it.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._said: dict[tuple[str, str], int] = {}
        self._next: dict[tuple[str, str], int] = {}

    def misplaced(self, records: Sequence[Record]) -> Record | None:
        """The first of a few sampled records whose key belongs into another partition."""
        step = max(1, len(records) // _SAMPLES_A_BATCH)
        for record in records[::step]:
            if record.key and partition_of(record.key, self._partitions) != record.partition:
                return record
        return None

    def observe(self, record: Record, models: Sequence[tuple[str, int]], watermark_ms: int) -> list[Output]:
        """Observations about a misplaced record, one for each (model, version) that it concerns and is to be told."""
        outputs = []
        if self._when(record.topic, "") is None:
            self._next[record.topic, ""] = watermark_ms
            _log.warning(
                "%s[%d] offset %d: the key belongs into another partition, where its counterpart would be looked for; "
                "set %s in the producer",
                *(record.topic, record.partition, record.offset, SETTING),
            )
        for model, version in models:
            before = self._when(record.topic, model)
            if before is not None and watermark_ms < before + AGAIN_MS:
                continue
            self._next[record.topic, model] = watermark_ms
            at = utc(max(watermark_ms, 0))
            event_id = derived_id(SUBJECT, record.topic, self._partitions, model, max(watermark_ms, 0) // AGAIN_MS)
            observation = Observation(
                observation_id=event_id,
                model=model,
                version=version,
                kind="data-quality",
                subject=SUBJECT,
                segment=None,
                status="opened" if before is None else "updated",
                severity="warning",
                window="",
                window_start=at,
                window_end=at,
                value=None,
                reference=None,
                threshold=None,
                n=1,
                observed_at=at,
                evidence={
                    "topic": record.topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "expected_partition": partition_of(record.key or b"", self._partitions),
                    "setting": SETTING,
                    "explanation": f"A key of {record.topic} lies in partition {record.partition} where murmur2 would "
                    "not put it: its predictions and labels may never meet. Set "
                    f"{SETTING} in the producer (librdkafka's default is CRC32).",
                },
            )
            outputs.append(event_output(observation))
        return outputs

    def committed(self) -> None:
        """What was said since the last commit counts."""
        self._said.update(self._next)
        self._next = {}

    def aborted(self) -> None:
        """What was said since the last commit does not count."""
        self._next = {}

    def _when(self, topic: str, model: str) -> int | None:
        """Watermark at which it was said of a model last (``""``: in the log); None: never."""
        return self._next.get((topic, model), self._said.get((topic, model)))
