"""The aggregation on a real broker: snapshots in the journal, recovery by another process, output once."""

from __future__ import annotations

import random
from collections import Counter

from agents.monitoring.aggregate_handler import AggregateHandler, AggregateOptions
from agents.monitoring.aggregate_snapshots import JournalSnapshots, snapshot_key
from schemas.codec import decode
from schemas.events import DeltaRecord, QualityMetric
from schemas.topics import (
    CATALOGUE,
    DRIFT_METRICS,
    JOINED_DELTAS,
    MONITORING_JOURNAL,
    OBSERVATIONS,
    QUALITY_METRICS,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from streams.packed import encode_delta
from tests.support.plans import plan, prediction
from tests.support.replay import DAY, Event, deltas, watermark
from tests.support.wait import eventually

PLAN = plan(watch=("accuracy",))
TOPICS = (JOINED_DELTAS, MONITORING_JOURNAL, QUALITY_METRICS, DRIFT_METRICS, OBSERVATIONS)


def _day(day: int) -> list[DeltaRecord]:
    rng = random.Random(day)
    events = []
    for i in range(50):
        score = rng.random()
        p = prediction(f"{day}-{i}", day * DAY + rng.randrange(DAY), value=int(score > 0.5), probability=score)
        events.append(Event(p, int(rng.random() < score), 5_000))
    return [deltas(PLAN, events), watermark((day + 1) * DAY)]


def _send(kafka: KafkaConfig, days: range) -> None:
    with EventProducer(kafka) as producer:
        for day in days:
            for record in _day(day):
                producer.send(JOINED_DELTAS, encode_delta(record), b"m", partition=0)
        producer.flush(20)


def _worker(kafka: KafkaConfig) -> tuple[BatchProcessor, AggregateHandler]:
    options = AggregateOptions(partitions=1, provisional_interval_ms=10**9, snapshot_interval_ms=1)
    handler = AggregateHandler(JournalSnapshots(kafka), lambda model, version: PLAN, options)
    processor = BatchProcessor(
        kafka,
        group="monitoring-aggregate",
        topics=[JOINED_DELTAS],
        transactional_id="monitoring-aggregate-0",
        handler=handler,
        options=ProcessorOptions(batch_records=5),
    )
    return processor, handler


def _closed(kafka: KafkaConfig) -> Counter[tuple[object, ...]]:
    metrics = [decode(r.value or b"", QualityMetric) for r in read_all(kafka, QUALITY_METRICS)]
    return Counter((m.window, m.window_end, str(m.segment), m.estimated) for m in metrics if m.state == "closed")


def test_another_worker_goes_on_from_the_journal(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, {name: CATALOGUE[name] for name in TOPICS})
    _send(kafka, range(8))
    first, handler = _worker(kafka)
    try:
        eventually(
            lambda: first.step(0.1) is not None and handler.partitions and handler.partitions[0].watermark == 8 * DAY,
            timeout=30,
        )
        state = handler.partitions[0].snapshot()
    finally:
        first.close()
    journal = [r for r in read_all(kafka, MONITORING_JOURNAL) if r.key == snapshot_key(0)]
    assert {r.partition for r in journal} == {0}
    assert len(journal) >= 2
    second, successor = _worker(kafka)
    try:
        eventually(lambda: second.step(0.1) is not None and 0 in successor.partitions, timeout=30)
        assert successor.partitions[0].snapshot() == state
        _send(kafka, range(8, 12))
        eventually(lambda: second.step(0.1) is not None and successor.partitions[0].watermark == 12 * DAY, timeout=30)
    finally:
        second.close()
    closed = _closed(kafka)
    assert set(closed.values()) == {1}
    assert len([1 for window, _, segment, _ in closed if window == "1d" and segment == "None"]) == 9


def test_recovers_from_the_deltas_alone(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, {name: CATALOGUE[name] for name in TOPICS})
    _send(kafka, range(3))
    source = JournalSnapshots(kafka)
    assert source.newest(0).snapshot is None
    assert len(list(source.replay(0, 0, 6))) == 6
    assert len(list(source.replay(0, 4, 6))) == 2
    assert list(source.replay(0, 6, 6)) == []
