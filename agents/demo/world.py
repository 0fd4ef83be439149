"""What the demo sees: the topics, read as any other consumer would read them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.events import (
    Alert,
    AnyRegistryEvent,
    AnyServingEvent,
    AnyTrainingEvent,
    ModelPromoted,
    ModelRolledBack,
    ModelSwapped,
    Prediction,
    QualityMetric,
    RunFailed,
    RunFinished,
    RunSkipped,
    RunStarted,
)
from schemas.topics import (
    ALERTS,
    OBSERVATIONS,
    PREDICTIONS,
    QUALITY_METRICS,
    REGISTRY_EVENTS,
    SERVING_EVENTS,
    TRAINING_EVENTS,
)
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail
from streams.kafka.records import Record

WATCHED = (PREDICTIONS, QUALITY_METRICS, OBSERVATIONS, ALERTS, TRAINING_EVENTS, REGISTRY_EVENTS, SERVING_EVENTS)


@dataclass
class World:
    """The state of the loop as its topics tell it."""

    scores: dict[str, float] = field(default_factory=dict)
    to_score: list[Prediction] = field(default_factory=list)
    """First predictions of their ids since somebody last took them: what a frozen version is asked about, too."""
    incidents: dict[str, Alert] = field(default_factory=dict)
    runs: dict[str, RunStarted | RunFinished | RunFailed] = field(default_factory=dict)
    skipped_runs: list[RunSkipped] = field(default_factory=list)
    swaps: list[tuple[ModelSwapped, int]] = field(default_factory=list)
    champion: int | None = None
    served: int | None = None
    predictions: int = 0
    first_metric_at: float | None = None
    newest_metric: dict[tuple[str, int], QualityMetric] = field(default_factory=dict)

    @property
    def open_runs(self) -> list[RunStarted]:
        return [run for run in self.runs.values() if isinstance(run, RunStarted)]

    @property
    def open_incidents(self) -> list[Alert]:
        return [alert for alert in self.incidents.values() if alert.status != "closed"]

    def apply(self, record: Record, clock_ms: int) -> None:
        """Take in one record; undecodable ones are not ours to judge."""
        if record.value is None:
            return
        try:
            self._apply(record.topic, record.value, clock_ms)
        except DecodeError:
            return

    def _apply(self, topic: str, value: bytes, clock_ms: int) -> None:
        if topic == PREDICTIONS:
            prediction = decode(value, Prediction)
            if isinstance(prediction.probability, float | int) and prediction.prediction_id not in self.scores:
                self.to_score.append(prediction)
                self.scores[prediction.prediction_id] = float(prediction.probability)
            self.predictions += 1
        elif topic == QUALITY_METRICS:
            metric = decode(value, QualityMetric)
            if self.first_metric_at is None and metric.n > 0 and not metric.estimated:
                self.first_metric_at = time.monotonic()
            if metric.segment is None and not metric.estimated:
                self.newest_metric[(metric.window, metric.version)] = metric
        elif topic == ALERTS:
            alert = decode(value, Alert)
            self.incidents[alert.incident_id] = alert
        elif topic == TRAINING_EVENTS:
            event: Any = decode(value, AnyTrainingEvent)  # type: ignore[arg-type]
            if isinstance(event, RunSkipped):
                self.skipped_runs.append(event)
            elif not (isinstance(event, RunStarted) and event.run_id in self.runs):
                self.runs[event.run_id] = event
        elif topic == REGISTRY_EVENTS:
            registry: Any = decode(value, AnyRegistryEvent)  # type: ignore[arg-type]
            if isinstance(registry, ModelPromoted | ModelRolledBack):
                self.champion = registry.version
        elif topic == SERVING_EVENTS:
            serving: Any = decode(value, AnyServingEvent)  # type: ignore[arg-type]
            if isinstance(serving, ModelSwapped):
                self.served = serving.to_version
                self.swaps.append((serving, clock_ms))


class Watcher:
    """Follows the topics into a `World`."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.world = World()
        self.last_records: dict[tuple[str, int], int] = {}
        self._tail = Tail(kafka, WATCHED, from_beginning=True, fetch_wait_ms=15)

    def poll(self, clock_ms: int, timeout_s: float = 0.0) -> int:
        """Take in what there is; returns the number of records."""
        records = self._tail.poll(timeout_s)
        self._take(records, clock_ms)
        return len(records)

    def catch_up(self, clock_ms: int, timeout_s: float = 30.0) -> None:
        """Take in everything up to the present end of the topics."""
        self._take(self._tail.read_to_end(timeout_s), clock_ms)

    def _take(self, records: list[Record], clock_ms: int) -> None:
        for record in records:
            self.last_records[record.topic, record.partition] = record.offset + 1
            self.world.apply(record, clock_ms)

    def close(self) -> None:
        self._tail.close()
