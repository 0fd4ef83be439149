"""The monitoring worker on a real broker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from schemas.codec import decode, to_ms
from schemas.events import QualityMetric
from schemas.topics import GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
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
        eventually(lambda: _closed_until(house) >= traffic.start_ms + 12 * DAY_MS, timeout=30)
        tumbling = _tumbling(house)
        assert worker.stop() == 0
    deltas, total = expected({("m", 1): house.plan}, traffic.predictions, traffic.truths)
    assert {name: n for name, n in house.totals().items() if n and name != "heartbeats"} == dict(total)
    merged = house.merged()
    assert merged == deltas
    labelled = house.plan.slots["labelled"].start
    counted: Counter[int] = Counter()
    for (_, _, segment, pane_ms, _, position), n in merged.items():
        if not segment and position == labelled:
            counted[pane_ms // (4 * DAY_MS)] += n
    assert tumbling == {(number * 4 * DAY_MS, (number + 1) * 4 * DAY_MS): n for number, n in counted.items()}
    assert len(tumbling) >= 3
    dead = house.dead(PREDICTIONS)
    assert len(dead) == total["predictions.dead"] > 0
    assert {reason for *_, reason in dead} == {"conflicting-prediction"}
    late = house.dead(GROUND_TRUTH)
    assert len(late) == total["labels.late"] > 0
    assert {reason for *_, reason in late} == {"late"}
    assert (
        traffic.sent[PREDICTIONS] == total["predictions"] + total["predictions.dead"] + total["predictions.duplicate"]
    )


def _newest(house: Installation) -> dict[tuple[str, int, int], QualityMetric]:
    """The last word on every window of all traffic."""
    found = {}
    for record in read_all(house.kafka, QUALITY_METRICS):
        metric = decode(record.value or b"", QualityMetric)
        if metric.segment is None and metric.state != "provisional" and not metric.estimated:
            found[metric.window, to_ms(metric.window_start), to_ms(metric.window_end)] = metric
    return found


def _tumbling(house: Installation) -> dict[tuple[int, int], int]:
    """Labelled events of every tumbling window of four days, by start and end."""
    return {(start, end): metric.n for (window, start, end), metric in _newest(house).items() if window == "4d/4d"}


def _closed_until(house: Installation) -> int:
    return max((end for _, _, end in _newest(house)), default=0)
