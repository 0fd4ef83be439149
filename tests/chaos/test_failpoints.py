"""The monitoring worker dies after each step of the batch order; its successor goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

from streams.kafka.config import KafkaConfig
from streams.kafka.failpoints import EXIT_CODE
from streams.kafka.producer import EventProducer
from tests.chaos.test_exactly_once import LOAD, check_result, check_windows
from tests.support.monitoring import DAY_MS, Installation, Traffic
from tests.support.wait import eventually

STEPS = {
    "after-process": 9,
    "after-produce": 8,
    "after-flush": 7,
    "after-offsets": 6,
    "after-commit": 5,
    "after-checkpoint": 4,
}
"""Steps and the passage at which each fails: not the first, so that there is state to lose."""


def test_every_step_of_the_batch(kafka: KafkaConfig, tmp_path: Path) -> None:
    house = Installation(kafka, tmp_path, **LOAD)
    house.register(1)
    traffic = Traffic(7)
    with EventProducer(kafka) as producer, house.follow() as progress:
        events = traffic.make(2_500, days=12)
        traffic.send(producer, events)
        producer.flush()
        for name, passage in STEPS.items():
            worker = house.worker(f"{name}:{passage}")
            try:
                assert worker.wait(60) == EXIT_CODE, worker.log.read_text()[-3000:]
            finally:
                worker.stop()
        assert 0 < progress.read() < len(events), "every worker died under load"
        traffic.beat(producer, traffic.start_ms + 60 * DAY_MS, house.partitions)
        producer.flush()
        with house.worker() as worker:
            everything = sum(traffic.sent.values())
            eventually(lambda: progress.read() == everything and progress.totals()["pending"] == 0, timeout=60)
            check_result(house, traffic, progress)
            eventually(lambda: check_windows(house, traffic), timeout=30, interval=0.5)
        log = worker.log.read_text()
        assert "brought up to date" in log, "a commit without its checkpoint was repeated from the journal"
        assert "thrown away" not in log
