"""What a batch of the join sends, where to, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from agents.monitoring import join_handler
from agents.monitoring.join_handler import JoinHandler
from agents.monitoring.join_state import JoinStates
from agents.monitoring.registry_view import RegistryView
from schemas.codec import decode, encode
from schemas.events import DeltaRecord, JournalRecord, PartitionWatermark, WatermarkUpdate
from schemas.topics import GROUND_TRUTH, JOINED_DELTAS, MONITORING_JOURNAL, PREDICTIONS, dead_letter_topic
from streams.join.batch import JoinLimits
from streams.join.partition import TOPICS, JoinPartition
from streams.join.partitioning import partition_of
from streams.kafka.positions import Positions
from streams.kafka.records import Output, Record
from streams.packed import decode_delta
from tests.support.joins import NOW_MS, View
from tests.support.plans import plan, prediction

PARTITIONS = 4
LIMITS = JoinLimits(grace_ms=20, future_tolerance_ms=1_000, targets=PARTITIONS)
VIEW = View({("m", 1): plan(windows=("50ms",), delay="100ms", horizon="200ms")})


class _Join(JoinPartition):
    most_bytes = 0

    def limit_memory(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes


class Memory:
    """Folders that hold nothing, and a registry that knows one version."""

    private = False

    def __init__(self) -> None:
        self.joins: dict[int, _Join] = {}
        self.written: list[tuple[int, Mapping[str, int]]] = []

    def newest(self, committed: object) -> Mapping[int, Any]:
        return {}

    def share(self, partitions: int) -> int:
        return 120 // max(partitions, 1)

    def open(self, partition: int, last: object, share: int) -> Any:
        self.joins[partition] = _Join(partition, LIMITS)
        self.joins[partition].limit_memory(share)
        return _Kept(partition, self)

    def refresh(self) -> None: ...

    def for_batch(self) -> Callable[[], View]:
        return lambda: VIEW

    def newest_versions(self) -> dict[str, int]:
        return {"m": 1}


class _Kept:
    def __init__(self, partition: int, of: Memory) -> None:
        self.partition, self.of, self.join = partition, of, of.joins[partition]
        self.store = self

    def close(self) -> None: ...

    def checkpoint(self, changes: object, offsets: Mapping[str, int], opened: object) -> None:
        self.of.written.append((self.partition, offsets))


class Bench:
    """A handler of two of four partitions, and where it stands."""

    def __init__(self, threads: int = 1) -> None:
        self.memory = Memory()
        self.handler = JoinHandler(
            cast("JoinStates", self.memory), cast("RegistryView", self.memory), PARTITIONS, threads
        )
        self.handler.restore([0, 2], {})
        self.at = {(topic, partition): 0 for topic in TOPICS for partition in (0, 2)}

    def process(self, records: Sequence[Record] = (), drained: bool = False) -> list[Output]:
        start = dict(self.at)
        for record in records:
            self.at[record.topic, record.partition] += 1
        return list(
            self.handler.process(records, Positions(start, dict(self.at), dict.fromkeys(self.at, drained)), NOW_MS)
        )


def _records(partition: int) -> list[Record]:
    key = next(b"%d" % n for n in range(99) if partition_of(b"%d" % n, PARTITIONS) == partition)
    truth = b'{"prediction_id":"%s","event_time_ms":90,"label":1}' % key
    return [
        Record(PREDICTIONS, partition, 0, key, encode(prediction(key.decode(), 80)), None, NOW_MS),
        Record(PREDICTIONS, partition, 1, None, b"{", None, NOW_MS),
        Record(GROUND_TRUTH, partition, 0, key, truth, None, NOW_MS),
    ]


def _told(outputs: Sequence[Output]) -> list[tuple[int, DeltaRecord]]:
    deltas = [output for output in outputs if output.topic == JOINED_DELTAS]
    return [(output.partition, decode_delta(output.value or b"")) for output in deltas]


def test_deltas_go_to_their_models_partition_and_watermarks_to_every_one_after_them() -> None:
    outputs = Bench().process([*_records(0), *_records(2)])
    told = _told(outputs)
    deltas = [partition for partition, record in told if not isinstance(record, WatermarkUpdate)]
    assert deltas == [partition_of(b"m", PARTITIONS)] * 2
    assert told[2:] == [
        (number, WatermarkUpdate([PartitionWatermark(0, 60, False), PartitionWatermark(2, 60, False)]))
        for number in range(PARTITIONS)
    ]
    assert sum(output.topic == dead_letter_topic(PREDICTIONS) for output in outputs) == 2
    journal = [output.partition for output in outputs if output.topic == MONITORING_JOURNAL]
    assert journal == [0, 2]
    assert outputs[-1].topic == MONITORING_JOURNAL


def test_that_both_topics_are_drained_is_told_and_journalled_without_a_record() -> None:
    bench = Bench()
    bench.process([*_records(0), *_records(2)])
    assert bench.handler.wants_commit()
    bench.handler.committed({})
    assert [partition for partition, _ in bench.memory.written] == [0, 2]
    assert bench.process() == []  # nothing came, nothing changed
    assert not bench.handler.wants_commit()
    outputs = bench.process(drained=True)
    idle = WatermarkUpdate([PartitionWatermark(0, 70, True), PartitionWatermark(2, 70, True)])
    assert _told(outputs) == [(number, idle) for number in range(PARTITIONS)]
    journal = [decode(output.value or b"", JournalRecord) for output in outputs if output.topic == MONITORING_JOURNAL]
    assert [(record.partition, record.idle, record.sequence) for record in journal] == [
        (partition, dict.fromkeys(TOPICS, True), 2) for partition in (0, 2)
    ]
    bench.handler.committed({})
    assert bench.process(drained=True) == []


def test_an_aborted_batch_comes_again_as_it_was() -> None:
    bench = Bench()
    records = [*_records(0), *_records(2)]
    first = bench.process(records)
    bench.handler.aborted()
    assert not bench.handler.wants_commit()
    bench.at = dict.fromkeys(bench.at, 0)
    assert bench.process(records) == first


def test_memory_is_divided_among_the_partitions_held() -> None:
    bench = Bench()
    joins = bench.memory.joins
    assert {number: join.most_bytes for number, join in joins.items()} == {0: 60, 2: 60}
    bench.handler.restore([1], {})
    assert {number: join.most_bytes for number, join in joins.items()} == {0: 40, 1: 40, 2: 40}
    bench.handler.released([0, 1])
    assert joins[2].most_bytes == 120


def test_partitions_side_by_side_say_what_they_say_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_handler, "_WORTH_A_LANE", 1)
    batches = [[*_records(2), *_records(0)], [], _records(0)]
    together, in_turn = Bench(threads=3), Bench()
    for records in batches:
        assert together.process(records) == in_turn.process(records)
        for bench in (together, in_turn):
            bench.handler.committed({})
    assert together.memory.written == in_turn.memory.written
    assert together.memory.written
    together.handler.close()
