"""What came out at the other end: the newest metrics of the window that holds everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.bulk import Bulk
from benchmarks.installation import WHOLE
from schemas.codec import decode
from schemas.events import QualityMetric
from schemas.topics import QUALITY_METRICS
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail

OVERALL = ""


@dataclass(frozen=True)
class Balance:
    """Labelled events that the metrics miss, and that they count too often, over all segments."""

    lost: int
    duplicated: int


def balance(kafka: KafkaConfig, bulk: Bulk, *, timeout_s: float = 60.0) -> Balance:
    """Compare what the last metrics count with what was sent, everything being labelled.

    Every segment must count its predictions once (`coverage` is labelled / predicted: 1 exactly) and so must all of
    them together. Waits until it is so or `timeout_s` have passed: metrics follow the join by a second or two.
    """
    expected = {OVERALL: bulk.count, **bulk.by_carrier()}
    newest: dict[str, QualityMetric] = {}

    def settled() -> bool:
        return all(_agrees(newest.get(segment), count) for segment, count in expected.items())

    with Tail(kafka, [QUALITY_METRICS], from_beginning=True) as tail:
        follow(tail, bulk.model, newest, settled, timeout_s)
    counts = {segment: (newest[segment].n if segment in newest else 0) for segment in expected}
    predicted = {
        segment: round(newest[segment].n / newest[segment].coverage) if segment in newest and counts[segment] else 0
        for segment in expected
    }
    found = [(expected[segment], number) for counted in (counts, predicted) for segment, number in counted.items()]
    return Balance(
        lost=sum(max(0, wanted - number) for wanted, number in found),
        duplicated=sum(max(0, number - wanted) for wanted, number in found),
    )


def follow(
    tail: Tail, model: str, newest: dict[str, QualityMetric], until: Callable[[], bool], timeout_s: float
) -> None:
    """Keep the newest metric of each segment (``""`` for overall) until a condition holds or time is up."""
    deadline = time.monotonic() + timeout_s
    while not until() and time.monotonic() < deadline:
        for record in tail.poll(0.2):
            metric = decode(record.value or b"", QualityMetric)
            if metric.model == model and metric.window == WHOLE and not metric.estimated:
                newest[next(iter((metric.segment or {}).values()), OVERALL)] = metric


def _agrees(metric: QualityMetric | None, count: int) -> bool:
    return metric is not None and metric.n == count and metric.coverage == 1.0
