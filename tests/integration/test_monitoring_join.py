"""The monitoring worker on a real broker."""

from __future__ import annotations

from pathlib import Path

from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.monitoring import DAY_MS, Installation, Traffic
from tests.support.oracle import expected
from tests.support.wait import eventually


def test_joins_what_was_sent(kafka: KafkaConfig, tmp_path: Path) -> None:
    house = Installation(kafka, tmp_path)
    house.register(1)
    traffic = Traffic()
    # All of it is there before the worker starts: days of event time within a second of arrival would else pass while
    # one topic looks idle.
    with EventProducer(kafka) as producer:
        traffic.send(producer, traffic.make(2_000, days=12))
        traffic.beat(producer, traffic.start_ms + 60 * DAY_MS, house.partitions)
    with house.worker().ready() as worker:
        eventually(
            lambda: house.totals()["heartbeats"] == 2 * house.partitions and house.totals()["pending"] == 0, timeout=30
        )
        assert worker.stop() == 0
    deltas, total = expected({("m", 1): house.plan}, traffic.predictions, traffic.truths)
    assert {name: n for name, n in house.totals().items() if n and name != "heartbeats"} == dict(total)
    assert house.merged() == deltas
    dead = house.dead(PREDICTIONS)
    assert len(dead) == total["predictions.dead"] > 0
    assert {reason for *_, reason in dead} == {"conflicting-prediction"}
    late = house.dead(GROUND_TRUTH)
    assert len(late) == total["labels.late"] > 0
    assert {reason for *_, reason in late} == {"late"}
    assert (
        traffic.sent[PREDICTIONS] == total["predictions"] + total["predictions.dead"] + total["predictions.duplicate"]
    )
