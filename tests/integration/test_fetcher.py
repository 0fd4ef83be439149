"""Fetching without Python objects: the same records, ends, errors and membership as the ordinary way."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from agents.monitoring.journal import FetchedSpan, Span
from schemas.errors import RetentionPassedError
from streams.kafka import librdkafka
from streams.kafka.admin import end_offsets, ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer
from streams.kafka.fetcher import FetchedRecords, Fetcher, usable
from streams.kafka.positions import TopicPartition
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from streams.kafka.records import Output, Record, columns_of, keys_of, offsets_of
from streams.kafka.transactions import TransactionalWriter
from tests.support.processing import Copier, scratch_topic
from tests.support.wait import eventually

pytestmark = pytest.mark.skipif(not usable(), reason="the native core was not built, or the client has no library")
TOPIC, OTHER = "orders", "payments"
SENT = [
    (b"value", b"key", None),
    (None, b"tombstone", None),
    (b"", None, [("ce_type", b"Label"), ("empty", b""), ("none", None)]),
    (b"beat", None, [("ce_type", b"Heartbeat")]),
    (b"x" * 200_000, b"", [("ce_type", b"Heartbeat"), ("ce_type", b"Label")]),
]


def fill(kafka: KafkaConfig, rounds: int = 1, partitions: int = 1) -> None:
    ensure_topics(kafka, partitions, {name: scratch_topic(name) for name in (TOPIC, OTHER)})
    with EventProducer(kafka) as producer:
        for _ in range(rounds):
            for value, key, headers in SENT:
                producer.send(TOPIC, value, key, headers)


def read_to_ends(fetcher: Fetcher, ends: dict[TopicPartition, int]) -> dict[TopicPartition, FetchedRecords]:
    found: dict[TopicPartition, FetchedRecords] = {}
    told_ends: dict[TopicPartition, int] = {}

    def done() -> bool:
        for tp, told, error in fetcher.read(10_000, found):  # type: ignore[arg-type]
            assert error is None
            if told.end >= 0:
                told_ends[tp] = told.end
        fetcher.wait(0.05)
        return told_ends == ends

    eventually(done, timeout=20)
    return found


def test_records_are_those_that_a_reader_gets(kafka: KafkaConfig) -> None:
    fill(kafka, rounds=3)
    expected = read_all(kafka, TOPIC)
    assert len(expected) == 3 * len(SENT)
    fetcher = Fetcher(kafka, {})
    try:
        fetcher.start({(TOPIC, 0): 0}, {})
        found = read_to_ends(fetcher, {(TOPIC, 0): len(expected)})[TOPIC, 0]
        made = [record._replace(headers=list(record.headers) if record.headers else None) for record in found]
        assert made == [
            record._replace(headers=list(record.headers) if record.headers else None) for record in expected
        ]
        assert list(found[2:4]) == [found[2], found[3]]
        assert found[-1] == found[len(found) - 1]
        with pytest.raises(IndexError):
            found[len(found)]
        assert columns_of(found).values == columns_of(expected).values
        assert columns_of(found).timestamps_ms.tolist() == columns_of(expected).timestamps_ms.tolist()
        assert offsets_of(found).tolist() == offsets_of(expected).tolist()
        assert keys_of(found) == keys_of(expected)
        kept: Record = found[0]
        fetcher.start({(TOPIC, 0): len(SENT)}, {})
        assert len(found) == 0
        assert kept.value == b"value"
        again = read_to_ends(fetcher, {(TOPIC, 0): len(expected)})[TOPIC, 0]
        assert [record.offset for record in again] == list(range(len(SENT), len(expected)))
    finally:
        fetcher.close()


def test_the_library_is_the_clients_own() -> None:
    found = librdkafka.library()
    assert found is not None
    assert all(librdkafka.addresses())


def test_copies_everything_once_over_a_rebalance(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 4, {name: scratch_topic(name) for name in (TOPIC, "copies")})
    values = [f"v{number}".encode() for number in range(20_000)]
    with EventProducer(kafka) as producer:
        for value in values:
            producer.send(TOPIC, value, value)
    stops = [threading.Event(), threading.Event()]

    def work(slot: int) -> None:
        BatchProcessor(
            kafka,
            group="copying",
            topics=[TOPIC],
            transactional_id=f"copying-{slot}",
            handler=Copier(),
            options=ProcessorOptions(batch_records=500, direct=True),
        ).run(stops[slot])

    threads = [threading.Thread(target=work, args=(slot,)) for slot in (0, 1)]
    try:
        threads[0].start()
        eventually(lambda: len(read_all(kafka, "copies")) > 1_000, timeout=30)
        # The second takes half of the partitions from the first, then all of them when that leaves.
        threads[1].start()
        eventually(lambda: len(read_all(kafka, "copies")) > 10_000, timeout=30)
        stops[0].set()
        eventually(lambda: len(read_all(kafka, "copies")) >= len(values), timeout=30)
    finally:
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join()
    assert sorted(record.value or b"" for record in read_all(kafka, "copies")) == sorted(values)


def test_positions_pass_transaction_markers_and_deleted_records_are_told(kafka: KafkaConfig) -> None:
    fill(kafka)
    end = end_offsets(kafka, [TOPIC])[TOPIC, 0]
    member = GroupConsumer(kafka, "direct", [TOPIC], direct=True)
    try:
        eventually(lambda: member.poll_batch(100, 0.1) is not None and member.drained(), timeout=20)
        assert member.positions().next == {(TOPIC, 0): end}
        # Somebody cut the log: what is at the position is not there any more.
        member._fetcher.start({(TOPIC, 0): end + 1_000}, {})  # type: ignore[union-attr]
        with pytest.raises(RetentionPassedError, match=f"{TOPIC}-0"):
            eventually(lambda: member.poll_batch(100, 0.1) and False, timeout=20)
    finally:
        member.close()


def test_slices_of_a_log_with_transactions_are_those_of_a_reader(kafka: KafkaConfig) -> None:
    """Markers take offsets: slices end before, behind and between them."""
    ensure_topics(kafka, 1, {TOPIC: scratch_topic(TOPIC)})
    writer = TransactionalWriter(kafka, "writing", transaction_timeout_ms=10_000, operation_timeout_ms=30_000)
    try:
        for number in range(30):
            writer.write([Output(TOPIC, b"%d" % number) for _ in range(number % 4)])
            writer.commit()
    finally:
        writer.close()
    end = end_offsets(kafka, [TOPIC])[TOPIC, 0]
    assert end > sum(number % 4 for number in range(30))
    for step in (1, 2, 3, 7, end):
        cuts = [*range(3, end, step), end]
        with closing(Span(kafka, TOPIC, 0, 3, end)) as plain, closing(FetchedSpan(kafka, TOPIC, 0, 3, end)) as fetched:
            for cut in cuts:
                assert [record.offset for record in fetched.until(cut)] == [r.offset for r in plain.until(cut)]
