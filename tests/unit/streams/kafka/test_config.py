"""Properties for librdkafka: what is fixed, what passes through, what is hidden."""

from __future__ import annotations

import pytest

from streams.kafka.config import KafkaConfig


def test_prefix_covers_topics_groups_and_transactional_ids() -> None:
    config = KafkaConfig("b:9092", prefix="blue.")
    assert config.topic("predictions") == "blue.predictions"
    assert config.without_prefix("blue.predictions") == "predictions"
    assert config.consumer("serving")["group.id"] == "blue.serving"
    assert config.producer("serving-0")["transactional.id"] == "blue.serving-0"


def test_properties_pass_through_to_every_client() -> None:
    config = KafkaConfig("b:9092", {"security.protocol": "SASL_SSL", "compression.type": "zstd"})
    for properties in (config.common(), config.consumer("g"), config.producer(), config.producer("t")):
        assert properties["security.protocol"] == "SASL_SSL"
        assert properties["bootstrap.servers"] == "b:9092"
    assert config.producer()["compression.type"] == "zstd"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("isolation.level", "read_uncommitted", "read_committed"),
        ("enable.auto.commit", "true", False),
        ("partition.assignment.strategy", "cooperative-sticky", "range"),
    ],
)
def test_what_correctness_rests_on_does_not_pass_through(name: str, value: str, kept: object) -> None:
    assert KafkaConfig("b:1", {name: value}).consumer("g")[name] == kept


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [("partitioner", "random", "murmur2_random"), ("acks", "1", "all"), ("enable.idempotence", "false", True)],
)
def test_producers_keep_partitioner_and_acks(name: str, value: str, kept: object) -> None:
    assert KafkaConfig("b:1", {name: value}).producer("t")[name] == kept


def test_overrides_of_the_caller_win() -> None:
    config = KafkaConfig("b:1", {"fetch.wait.max.ms": "7"})
    assert config.consumer("g")["fetch.wait.max.ms"] == "7"
    assert config.consumer("g", fetch_wait_max_ms=9)["fetch.wait.max.ms"] == 9


def test_a_consumer_s_queue_is_bounded() -> None:
    assert int(KafkaConfig("b:1").consumer("g")["queued.max.messages.kbytes"]) <= 128 * 1024


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.password", "sasl.username", "ssl.key.pem"])
def test_repr_hides_secrets(name: str) -> None:
    shown = repr(KafkaConfig("b:1", {name: "hunter2", "security.protocol": "SSL"}))
    assert "hunter2" not in shown
    assert "'SSL'" in shown
