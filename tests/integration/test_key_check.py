"""A producer with librdkafka's own partitioner, on a real broker: monitoring says which setting to change."""

from __future__ import annotations

from pathlib import Path

from schemas.codec import decode
from schemas.events import Observation
from schemas.topics import OBSERVATIONS, PREDICTIONS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.monitoring import Installation, Traffic
from tests.support.wait import eventually


def test_a_producer_with_another_partitioner_is_told_the_setting(kafka: KafkaConfig, tmp_path: Path) -> None:
    house = Installation(kafka, tmp_path)
    house.register(1)
    traffic = Traffic()
    predictions = [event for event in traffic.make(200, days=1) if event[0] == PREDICTIONS]
    with EventProducer(kafka, partitioner="consistent_random") as producer:
        traffic.send(producer, predictions)

    def told() -> list[Observation]:
        found = [decode(record.value or b"", Observation) for record in read_all(kafka, OBSERVATIONS)]
        return [observation for observation in found if observation.subject == "partitioner"]

    with house.worker().ready() as worker:
        eventually(lambda: bool(told()), timeout=30)
        assert worker.stop() == 0
    (observation,) = told()
    assert (observation.kind, observation.status, observation.model) == ("data-quality", "opened", "m")
    assert observation.evidence["topic"] == PREDICTIONS
    assert observation.evidence["expected_partition"] != observation.evidence["partition"]
    assert observation.evidence["setting"] == "partitioner=murmur2_random"
    assert "partitioner=murmur2_random" in observation.evidence["explanation"]
