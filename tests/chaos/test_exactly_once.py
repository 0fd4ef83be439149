"""SIGKILL of the monitoring worker at random moments under load: nothing is lost, nothing counts twice."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from schemas.codec import segment_key, to_ms
from schemas.events import QualityMetric
from schemas.topics import GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.monitoring import DAY_MS, Installation, Progress, Traffic
from tests.support.oracle import expected
from tests.support.wait import eventually

KILLS = 11
SEED = 20_131
LOAD = {"batch_records": 40, "commit_interval_ms": 5, "snapshot_interval_ms": 500, "session_timeout_ms": 2_000}


def check_result(
    house: Installation, traffic: Traffic, progress: Progress, dirt: Mapping[str, int] | None = None
) -> None:
    """Input and output sets are equal: totals, contributions, dead letters and windows.

    `dirt`: what records beside the traffic count as.
    """
    deltas, total = expected({("m", 1): house.plan}, traffic.predictions, traffic.truths)
    total.update(dirt or {})
    found = progress.totals()
    assert {name: n for name, n in found.items() if n and name != "heartbeats"} == dict(total)
    progress.check_chain()
    assert house.merged() == deltas
    for topic, count in (
        (PREDICTIONS, total["predictions.dead"]),
        (GROUND_TRUTH, total["labels.late"] + total["labels.dead"]),
    ):
        dead = house.dead(topic)
        assert len(dead) == len({(partition, offset) for partition, offset, _ in dead}) == count > 0


def check_windows(house: Installation, traffic: Traffic) -> bool:
    """The newest word on every daily window holds every label of its pane, and nothing was said twice."""
    deltas, _ = expected({("m", 1): house.plan}, traffic.predictions, traffic.truths)
    at = house.plan.slots["labelled"].start
    labelled: Counter[int] = Counter()
    for (_, _, segment, pane, _, position), n in deltas.items():
        if segment == "" and position == at:
            labelled[pane] += n
    said: dict[tuple[str, str, int], QualityMetric] = {}
    ids: Counter[bytes] = Counter()
    for record in read_all(house.kafka, QUALITY_METRICS):
        metric = msgspec.json.decode(record.value or b"", type=QualityMetric)
        if metric.state == "provisional":
            continue
        ids[dict(record.headers or ())["ce_id"] or b""] += 1
        if not metric.estimated:
            said[segment_key(metric.segment), metric.window, to_ms(metric.window_start)] = metric
    assert ids, "no window has closed yet"
    assert max(ids.values()) == 1
    assert {start: m.n for (segment, window, start), m in said.items() if (segment, window) == ("", "1d")} == labelled
    return True


def test_sigkill_at_random_moments(kafka: KafkaConfig, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    house = Installation(kafka, tmp_path, **LOAD)
    house.register(1)
    traffic = Traffic(SEED)
    with EventProducer(kafka) as producer, house.follow() as progress:
        events = traffic.make(6_000, days=14)
        traffic.send(producer, events)
        producer.flush()
        kills, amid = 0, 0
        while kills < KILLS:
            before = progress.read()
            worker = house.worker()
            if kills % 4 == 3:
                # Anywhere in the start, restore included.
                time.sleep(rng.uniform(0.3, 3.0))
            else:
                target = before + rng.randint(1, len(events) // (KILLS + 2))
                eventually(lambda: progress.read() >= target, timeout=60, interval=0.01)  # noqa: B023
                time.sleep(rng.uniform(0, 0.05))
                amid += 1
            assert worker.process.poll() is None, worker.log.read_text()[-3000:]
            worker.kill()
            kills += 1
            if kills in {4, 8}:
                shutil.rmtree(house.settings.state_dir)
        assert amid >= 8
        assert progress.read() < len(events), "the load was over before the last kill"
        traffic.beat(producer, traffic.start_ms + 60 * DAY_MS, house.partitions)
        producer.flush()
        with house.worker():
            everything = sum(traffic.sent.values())
            eventually(lambda: progress.read() == everything and progress.totals()["pending"] == 0, timeout=60)
            check_result(house, traffic, progress)
            eventually(lambda: check_windows(house, traffic), timeout=30, interval=0.5)
