"""Samples keys against their partition: a producer with another partitioner parts predictions from their labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from agents.monitoring.outputs import event_output
from schemas.codec import derived_id, utc
from schemas.events import Observation
from streams.join.partitioning import partition_of
from streams.kafka.records import Output, Record

SUBJECT: Final = "partitioner"
SETTING: Final = "partitioner=murmur2_random"
_SAMPLES_A_BATCH: Final = 16

_log = logging.getLogger("driftline.monitoring")


class KeyCheck:
    """Remembers which topics were found mis-partitioned, and says so once a worker's life.

    Parameters
    ----------
    partitions : int
        Of the traffic topics.

    Notes
    -----
    The observation's id is derived from topic and partition count: said again after a restart, it is the same one.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._said: set[tuple[str, str]] = set()

    def misplaced(self, records: Sequence[Record]) -> Record | None:
        """The first of a few sampled records whose key belongs into another partition."""
        step = max(1, len(records) // _SAMPLES_A_BATCH)
        for record in records[::step]:
            if record.key and partition_of(record.key, self._partitions) != record.partition:
                return record
        return None

    def observe(self, record: Record, models: Sequence[tuple[str, int]], watermark_ms: int) -> list[Output]:
        """Observations about a misplaced record, one for each (model, version) that it concerns and was not told."""
        outputs = []
        if (record.topic, "") not in self._said:
            self._said.add((record.topic, ""))
            _log.warning(
                "%s[%d] offset %d: the key belongs into another partition, where its counterpart would be looked for; "
                "set %s in the producer",
                *(record.topic, record.partition, record.offset, SETTING),
            )
        for model, version in models:
            if (record.topic, model) in self._said:
                continue
            self._said.add((record.topic, model))
            at = utc(max(watermark_ms, 0))
            event_id = derived_id(SUBJECT, record.topic, self._partitions, model)
            observation = Observation(
                observation_id=event_id,
                model=model,
                version=version,
                kind="data-quality",
                subject=SUBJECT,
                segment=None,
                status="opened",
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
