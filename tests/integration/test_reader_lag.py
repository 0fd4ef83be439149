"""Readers and lag on the real broker, with transaction markers and aborted transactions in the way."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.errors import BrokerError, TopicError
from schemas.topics import CATALOGUE, OBSERVATIONS, PREDICTIONS
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.lag import LagProbe, committed_offsets, lag
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail, newest, read_all
from tests.support.wait import eventually

SOME = {name: CATALOGUE[name] for name in (PREDICTIONS, OBSERVATIONS)}


@pytest.fixture
def topics(kafka: KafkaConfig) -> KafkaConfig:
    ensure_topics(kafka, 2, SOME)
    return kafka


def transaction(config: KafkaConfig, values: list[bytes], *, commit: bool, partition: int = 0) -> None:
    producer = Producer(config.producer("test"))
    producer.init_transactions(10)
    producer.begin_transaction()
    for value in values:
        producer.produce(config.topic(PREDICTIONS), value, partition=partition)
    producer.flush(10)
    producer.commit_transaction(10) if commit else producer.abort_transaction(10)


def commit_offset(config: KafkaConfig, group: str, partition: int, offset: int) -> None:
    consumer = Consumer(config.consumer(group))
    consumer.commit(offsets=[TopicPartition(config.topic(PREDICTIONS), partition, offset)], asynchronous=False)
    consumer.close()


def test_read_all_sees_committed_records_only_and_keeps_bytes(topics: KafkaConfig) -> None:
    transaction(topics, [b"a", b"b"], commit=True)
    transaction(topics, [b"x"], commit=False)
    with EventProducer(topics) as producer:
        producer.send(PREDICTIONS, None, b"\xff", [("ce_type", b"T"), ("none", None)], 1)
    records = read_all(topics, PREDICTIONS)
    assert [r.value for r in records if r.partition == 0] == [b"a", b"b"]
    [tombstone] = [r for r in records if r.partition == 1]
    assert tombstone[:6] == (PREDICTIONS, 1, 0, b"\xff", None, [("ce_type", b"T"), ("none", None)])
    assert abs(tombstone.timestamp_ms - time.time() * 1000) < 60_000


def test_read_all_of_an_empty_topic_does_not_wait_for_records(topics: KafkaConfig) -> None:
    # The end is known at once; a read that waited for records would fail at its deadline.
    assert read_all(topics, OBSERVATIONS, timeout_s=5) == []


def test_tail_from_the_end_sees_only_what_comes_after_it_was_made(topics: KafkaConfig) -> None:
    with EventProducer(topics) as producer, Tail(topics, [OBSERVATIONS], from_beginning=False) as tail:
        producer.send(OBSERVATIONS, b"1")
        producer.flush()
        with Tail(topics, [OBSERVATIONS], from_beginning=False) as later:
            producer.send(OBSERVATIONS, b"2")
            producer.flush()
            assert [r.value for r in tail.read_to_end(10)] == [b"1", b"2"]
            assert [r.value for r in later.read_to_end(10)] == [b"2"]
            assert later.read_to_end(10) == []


def test_read_to_end_gets_past_markers_and_aborted_records(topics: KafkaConfig) -> None:
    with Tail(topics, [PREDICTIONS], from_beginning=True) as tail:
        transaction(topics, [b"a"], commit=True)
        assert [r.value for r in tail.read_to_end(10)] == [b"a"]
        for _ in range(3):
            transaction(topics, [b"x"], commit=False)
            assert tail.read_to_end(10) == []
        transaction(topics, [b"b"], commit=True)
        assert [r.value for r in tail.read_to_end(10)] == [b"b"]
        # Five records and five markers; the last marker may be written after its commit returned.
        eventually(lambda: tail.poll(0.1) == [] and tail.positions[PREDICTIONS, 0] == 10 and tail.caught_up())


def test_tail_delivers_while_it_waits(topics: KafkaConfig) -> None:
    with Tail(topics, [OBSERVATIONS], from_beginning=False) as tail, EventProducer(topics) as producer:
        timer = threading.Timer(0.3, lambda: (producer.send(OBSERVATIONS, b"late"), producer.flush()))
        timer.start()
        assert [r.value for r in tail.poll(10)] == [b"late"]
        timer.join()


def test_tail_of_a_missing_topic(kafka: KafkaConfig) -> None:
    with pytest.raises(TopicError, match="does not exist"):
        Tail(kafka, [PREDICTIONS], from_beginning=True)


def test_newest_finds_the_last_wanted_record_behind_markers_and_others(topics: KafkaConfig) -> None:
    transaction(topics, [b"wanted-1", b"wanted-2"], commit=True)
    transaction(topics, [b"other"] * 700, commit=True)
    transaction(topics, [b"wanted-aborted"], commit=False)
    found = newest(topics, PREDICTIONS, wanted=lambda record: (record.value or b"").startswith(b"wanted"))
    assert {partition: record.value for partition, record in found.items()} == {0: b"wanted-2"}
    assert newest(topics, PREDICTIONS)[0].value == b"other"
    assert newest(topics, OBSERVATIONS) == {}


def test_lag_counts_records_not_markers(topics: KafkaConfig) -> None:
    transaction(topics, [b"1", b"2", b"3"], commit=True)  # offsets 0 1 2, marker 3
    transaction(topics, [b"x"], commit=False)  # 4, marker 5
    probe = LagProbe(topics)
    assert probe.lag("g", [PREDICTIONS]) == {(PREDICTIONS, 0): 3, (PREDICTIONS, 1): 0}
    commit_offset(topics, "g", 0, 2)
    assert probe.lag("g", [PREDICTIONS])[PREDICTIONS, 0] == 1
    commit_offset(topics, "g", 0, 3)
    assert probe.lag("g", [PREDICTIONS])[PREDICTIONS, 0] == 0
    assert committed_offsets(topics, "g") == {(PREDICTIONS, 0): 3}
    transaction(topics, [b"4"], commit=True)
    assert probe.lag("g", [PREDICTIONS])[PREDICTIONS, 0] == 1
    assert lag(topics, "another", [PREDICTIONS, OBSERVATIONS]) == {
        (PREDICTIONS, 0): 4,
        (PREDICTIONS, 1): 0,
        (OBSERVATIONS, 0): 0,
    }


def test_lag_of_a_large_gap(topics: KafkaConfig) -> None:
    with EventProducer(topics) as producer:
        for _ in range(5_000):
            producer.send(PREDICTIONS, b"{}", partition=1)
    assert lag(topics, "g", [PREDICTIONS])[PREDICTIONS, 1] == 5_000


def test_lag_of_a_missing_topic(kafka: KafkaConfig) -> None:
    with pytest.raises(TopicError):
        lag(kafka, "g", [PREDICTIONS])


def test_producer_says_what_was_not_delivered() -> None:
    producer = EventProducer(KafkaConfig("127.0.0.1:1"), message_timeout_ms=300)
    producer.send(PREDICTIONS, b"{}", b"key-7")
    with pytest.raises(BrokerError, match="predictions key b'key-7'") as caught:
        producer.flush(5)
    assert caught.value.where == "127.0.0.1:1"
    producer.flush(1)


def test_producer_refuses_an_oversize_record_at_once(topics: KafkaConfig) -> None:
    with EventProducer(topics) as producer, pytest.raises(BrokerError, match="too large") as caught:
        producer.send(PREDICTIONS, b"x" * 2_000_000, b"k")
    assert topics.topic(PREDICTIONS) in caught.value.where


def test_send_blocks_on_a_full_queue_and_goes_on(topics: KafkaConfig) -> None:
    with EventProducer(topics, queue_buffering_max_messages=100, linger_ms=50) as producer:
        for _ in range(1_000):
            producer.send(PREDICTIONS, b"{}")
        producer.flush()
        assert producer.delivered == 1_000


def test_a_queue_that_stays_full_is_an_error() -> None:
    producer = EventProducer(KafkaConfig("127.0.0.1:1"), queue_buffering_max_messages=1, message_timeout_ms=5_000)
    producer.send(PREDICTIONS, b"{}")
    with pytest.raises(BrokerError, match="queue stayed full"):
        producer.send(PREDICTIONS, b"{}", timeout_s=0.3)
