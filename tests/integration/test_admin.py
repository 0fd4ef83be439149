"""Topics on the real broker: created, checked, planned; errors that say what to do."""

from __future__ import annotations

import pytest

from schemas.errors import BrokerUnreachableError, TopicError
from schemas.topics import CATALOGUE, DAY_MS, MONITORING_JOURNAL, OBSERVATIONS, PREDICTIONS, REGISTRY_STATE
from streams.kafka import admin
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.wait import eventually

SOME = {name: CATALOGUE[name] for name in (PREDICTIONS, MONITORING_JOURNAL, REGISTRY_STATE)}


def test_creates_what_is_missing_once_with_the_catalogue_s_settings(kafka: KafkaConfig) -> None:
    assert set(admin.ensure_topics(kafka, 3, SOME)) == {kafka.topic(name) for name in SOME}
    assert admin.ensure_topics(kafka, 3, SOME) == []
    counts = admin.partition_counts(kafka)
    assert {name: counts[name] for name in SOME} == {PREDICTIONS: 3, MONITORING_JOURNAL: 3, REGISTRY_STATE: 1}
    assert {topic.action for topic in admin.plan_topics(kafka, 3, SOME)} == {"keep"}
    # "keep" compares every setting, LogAppendTime and compaction among them.
    wrong = {PREDICTIONS: CATALOGUE[PREDICTIONS].__class__(PREDICTIONS, "x", "traffic", 5, True, "")}
    [altered] = admin.plan_topics(kafka, 3, wrong)
    assert altered.action == "alter"
    assert altered.settings == {"retention.ms": "5", "cleanup.policy": "compact"}


def test_plan_tells_and_touches_nothing(kafka: KafkaConfig) -> None:
    assert {topic.action for topic in admin.plan_topics(kafka, 3, SOME)} == {"create"}
    assert admin.partition_counts(kafka) == {}


def test_another_partition_count_is_refused_with_the_remedy(kafka: KafkaConfig) -> None:
    admin.ensure_topics(kafka, 2, SOME)
    with pytest.raises(TopicError, match="has 2 partitions, should have 4") as caught:
        admin.ensure_topics(kafka, 4, SOME)
    assert kafka.topic(PREDICTIONS) in caught.value.where
    assert "DRIFTLINE_PARTITIONS=2" in caught.value.remedy
    assert {t.action for t in admin.plan_topics(kafka, 4, SOME) if t.name != kafka.topic(REGISTRY_STATE)} == {"refuse"}


def test_retention_shorter_than_state_needs_is_refused(kafka: KafkaConfig) -> None:
    admin.ensure_topics(kafka, 1, SOME)
    admin.check_retention(kafka, 90 * DAY_MS, [PREDICTIONS, MONITORING_JOURNAL, REGISTRY_STATE])
    with pytest.raises(TopicError, match=r"retention.ms is 7776000000") as caught:
        admin.check_retention(kafka, 90 * DAY_MS + 1, [PREDICTIONS])
    assert f"retention.ms={90 * DAY_MS + 1}" in caught.value.remedy


def test_end_offsets_count_what_was_sent(kafka: KafkaConfig) -> None:
    admin.ensure_topics(kafka, 3, SOME)
    with EventProducer(kafka) as producer:
        for n in range(5):
            producer.send(PREDICTIONS, b"{}", partition=1)
            producer.send(REGISTRY_STATE, b"{}", key=b"%d" % n)
    assert producer.delivered == 10
    assert admin.end_offsets(kafka, [PREDICTIONS, REGISTRY_STATE]) == {
        (PREDICTIONS, 0): 0,
        (PREDICTIONS, 1): 5,
        (PREDICTIONS, 2): 0,
        (REGISTRY_STATE, 0): 5,
    }


def test_a_missing_topic_is_named_with_broker_and_remedy(kafka: KafkaConfig) -> None:
    with pytest.raises(TopicError, match="does not exist") as caught:
        admin.end_offsets(kafka, [OBSERVATIONS])
    assert kafka.topic(OBSERVATIONS) in caught.value.where
    assert kafka.bootstrap_servers in caught.value.where
    assert "driftline topics" in caught.value.remedy


def test_a_topic_made_anew_has_another_id(kafka: KafkaConfig) -> None:
    admin.ensure_topics(kafka, 1, SOME)
    before = admin.topic_ids(kafka, [PREDICTIONS, OBSERVATIONS])
    assert list(before) == [PREDICTIONS]
    admin.delete_topics(kafka)
    eventually(lambda: PREDICTIONS not in admin.partition_counts(kafka))
    admin.ensure_topics(kafka, 1, SOME)
    assert admin.topic_ids(kafka, [PREDICTIONS])[PREDICTIONS] != before[PREDICTIONS]


@pytest.mark.parametrize("call", [admin.check_broker, lambda c: admin.ensure_topics(c, 1, timeout_s=1)])
def test_no_broker_names_address_and_both_remedies(call: object) -> None:
    config = KafkaConfig("127.0.0.1:1")
    with pytest.raises(BrokerUnreachableError) as caught:
        admin.check_broker(config, 1.0) if call is admin.check_broker else call(config)  # type: ignore[operator]
    text = str(caught.value)
    assert "127.0.0.1:1" in text
    assert "driftline up" in text
    assert "KAFKA_BOOTSTRAP_SERVERS" in text
