"""The transactional batch processor on a real broker: batches, drained partitions, idle commits, aborts."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest

from schemas.errors import StateError
from streams.kafka.admin import end_offsets, ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.processing import Copier, scratch_topic
from tests.support.wait import eventually

TOPICS = {name: scratch_topic(name) for name in ("orders", "copies")}


def produce(kafka: KafkaConfig, values: Iterable[bytes], topic: str = "orders") -> None:
    with EventProducer(kafka) as producer:
        for value in values:
            producer.send(topic, value, value)
        producer.flush(10)


def processor(kafka: KafkaConfig, handler: Copier, slot: str = "0", **options: int) -> BatchProcessor:
    return BatchProcessor(
        kafka,
        group="copying",
        topics=["orders"],
        transactional_id=f"copying-{slot}",
        handler=handler,
        options=ProcessorOptions(**options),
    )


def test_copies_everything_once_and_commits_to_the_very_end(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 3, TOPICS)
    values = [f"v{i}".encode() for i in range(500)]
    produce(kafka, values)
    handler = Copier()
    worker = processor(kafka, handler, batch_records=100)
    try:
        eventually(lambda: worker.step(0.1) is not None and len(handler.values()) == 500, timeout=20)
    finally:
        worker.close()
    assert max(handler.batches) <= 100
    assert sorted(handler.values()) == sorted(values)
    assert sorted(record.value or b"" for record in read_all(kafka, "copies", timeout_s=10)) == sorted(values)
    assert handler.releases == [[0, 1, 2]]


def test_commits_past_the_markers_of_other_transactions_and_then_rests(kafka: KafkaConfig) -> None:
    """Copies of copies: the source is written by transactions, so its end is a marker and not a record."""
    ensure_topics(kafka, 2, {**TOPICS, "copies-of-copies": scratch_topic("copies-of-copies")})
    produce(kafka, [f"v{i}".encode() for i in range(50)])
    first, second = Copier(), Copier("copies-of-copies")
    upstream = processor(kafka, first)
    downstream = BatchProcessor(
        kafka,
        group="second",
        topics=["copies"],
        transactional_id="second-0",
        handler=second,
        options=ProcessorOptions(),
    )
    try:
        eventually(lambda: upstream.step(0.05) and len(first.values()) == 50, timeout=20)
        ends = end_offsets(kafka, ["copies"])
        assert sum(ends.values()) > 50

        def at_the_end() -> bool:
            downstream.step(0.05)
            committed: dict[tuple[str, int], int] = {}
            for offsets in second.commits:
                committed |= offsets
            return committed == {tp: end for tp, end in ends.items() if end}

        eventually(at_the_end, timeout=20)
        commits = len(second.commits)
        assert len(second.values()) == 50
        assert not any(downstream.step(0.05) for _ in range(10))
        assert len(second.commits) == commits
    finally:
        upstream.close()
        downstream.close()
    assert second.positions[-1].all_drained


def test_drained_becomes_false_again_when_records_arrive(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, TOPICS)
    handler = Copier()
    worker = processor(kafka, handler, batch_records=10)
    try:
        eventually(lambda: worker.step(0.05) or (handler.positions and handler.positions[-1].all_drained), timeout=20)
        produce(kafka, [f"v{i}".encode() for i in range(25)])
        eventually(lambda: worker.step(0.05) and len(handler.values()) == 25, timeout=20)
    finally:
        worker.close()
    with_records = [p for p, n in zip(handler.positions, handler.batches, strict=True) if n]
    assert not with_records[0].drained["orders", 0]
    assert [p.next["orders", 0] for p in with_records][-1] == 25
    assert [p.start["orders", 0] for p in with_records][:2] == [0, 10]


def test_what_the_handler_raises_ends_the_run_and_commits_nothing(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, TOPICS)
    values = [f"v{i}".encode() for i in range(20)]
    produce(kafka, values)
    broken = Copier()
    broken.failure = StateError("made up")
    with pytest.raises(StateError, match="made up"):
        processor(kafka, broken).run(threading.Event())
    assert broken.values() == []
    assert broken.aborts >= 1
    assert broken.releases == [[0, 1]]
    assert read_all(kafka, "copies", timeout_s=10) == []
    sound = Copier()
    worker = processor(kafka, sound)
    try:
        eventually(lambda: worker.step(0.05) and len(sound.values()) == 20, timeout=20)
    finally:
        worker.close()
    assert sorted(sound.values()) == sorted(values)


def test_opens_no_transaction_for_a_batch_without_outputs_and_offsets(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, TOPICS)
    handler = Copier()
    worker = processor(kafka, handler, idle_ms=10)
    try:
        eventually(lambda: worker.step(0.02) or len(handler.batches) > 5, timeout=20)
        assert handler.commits == []
        handler.wanted = True
        eventually(lambda: worker.step(0.02), timeout=20)
        assert handler.commits == [{}]
    finally:
        worker.close()


def test_a_quiet_topic_costs_no_waiting(kafka: KafkaConfig) -> None:
    """A drained topic is committed at once: waiting out the commit interval would miss the deadline."""
    ensure_topics(kafka, 4, TOPICS)
    handler = Copier()
    worker = processor(kafka, handler, commit_interval_ms=120_000)
    try:
        with EventProducer(kafka) as producer:
            for i in range(8):
                producer.send("orders", b"v", str(i).encode())
                producer.flush(10)
                eventually(lambda n=i: worker.step(0.05) and len(handler.values()) == n + 1, timeout=20, interval=0)
    finally:
        worker.close()
