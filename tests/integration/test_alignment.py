"""A follower's records come behind their leader's in a catch-up, whole and in order, also after going back."""

from __future__ import annotations

import pytest

from streams.kafka.admin import ensure_topics
from streams.kafka.alignment import HOLD_MOST, NEAR
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer
from streams.kafka.producer import EventProducer
from tests.support.processing import scratch_topic
from tests.support.wait import eventually

LEADING, FOLLOWING = "orders", "payments"


@pytest.mark.parametrize("direct", [False, True])
def test_followers_come_behind_their_leader(kafka: KafkaConfig, direct: bool) -> None:
    ensure_topics(kafka, 1, {name: scratch_topic(name) for name in (LEADING, FOLLOWING)})
    counts = {LEADING: 3 * NEAR, FOLLOWING: HOLD_MOST + 15_000}
    with EventProducer(kafka) as producer:
        for topic, count in counts.items():
            for number in range(count):
                producer.send(topic, str(number).encode(), b"key")
    member = GroupConsumer(kafka, "aligned", [LEADING, FOLLOWING], leader=LEADING, direct=direct)
    seen: dict[str, list[int]] = {LEADING: [], FOLLOWING: []}
    went_back = False
    try:

        def all_read() -> bool:
            nonlocal went_back
            batch = member.poll_batch(5_000, 0.2)
            for record in batch:
                seen[record.topic].append(int(record.value or b""))
            if len(seen[FOLLOWING]) and len(seen[LEADING]) < counts[LEADING] - NEAR - 5_000:
                raise AssertionError(f"a follower came after {len(seen[LEADING])} records of its leader")
            if not went_back and len(seen[LEADING]) > NEAR:
                went_back = True
                member.rewind()
                for found in seen.values():
                    found.clear()
            return member.drained() and {topic: len(found) for topic, found in seen.items()} == counts

        eventually(all_read, timeout=60)
        assert seen == {topic: list(range(count)) for topic, count in counts.items()}
        assert member.positions().next == {(topic, 0): count for topic, count in counts.items()}
    finally:
        member.close()
