"""One world of the backtest: predictions and labels through the join, the aggregation and the alert book.

The bytes are those that producers would have sent, the classes are those of the agents; only Kafka is not there. The
end of a pane is told by heartbeats, as producers of nightly batches tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agents.alerting.logic import AlertBook
from agents.alerting.triggers import Learnt
from agents.backtest.events import Batch
from schemas.codec import encode
from schemas.events import (
    Alert,
    DriftMetric,
    Heartbeat,
    Observation,
    PaneClosed,
    PartitionWatermark,
    QualityMetric,
    RetrainRequest,
    WatermarkUpdate,
)
from schemas.specification import Specification
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.aggregate import AggregateEvent
from streams.join.batch import JoinLimits, Slice
from streams.kafka.records import Record
from streams.native.choice import JoinCore, aggregate_class, join_class
from streams.packed import encode_delta
from streams.panes import PanePlan

HEARTBEAT: Final = (("ce_type", b"Heartbeat"), ("content-type", b"application/json"))
PARTITION: Final = 0
FAR_MS: Final = 1 << 62
"""Tolerance of event times from the future: the intake has looked at them."""


@dataclass
class Plans:
    """Plans of the versions by number (`streams.join.batch.PlanView`)."""

    model: str
    label_horizon_ms: int
    plans: dict[int, PanePlan] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Versions are registered before they are used."""
        return len(self.plans)

    def plan(self, model: str, version: int) -> PanePlan | None:
        """Plan of a version."""
        return self.plans.get(version) if model == self.model else None

    def watched(self, model: str) -> bool:
        """Versions have numbers here already, also those of files."""
        return False

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> Sequence[int]:
        """No model is watched."""
        return ()


class Step(NamedTuple):
    """What a pane's end brought."""

    alerts: list[Alert]
    requests: list[RetrainRequest]


class Monitor:
    """Monitoring and alerting of one model.

    Parameters
    ----------
    spec : Specification
    plans : Plans
    core : {"auto", "native", "reference"}
        Which implementation joins and aggregates.

    Attributes
    ----------
    quality, estimates, drift, observations, panes, alerts : list
        Everything that was told, in order.
    """

    def __init__(self, spec: Specification, plans: Plans, core: JoinCore = "auto") -> None:
        self.spec = spec
        self.plans = plans
        self.book = AlertBook(model=spec.name)
        self._learnt: Learnt | None = None
        self.quality: list[QualityMetric] = []
        self.estimates: list[QualityMetric] = []
        self.drift: list[DriftMetric] = []
        self.observations: list[Observation] = []
        self.panes: list[PaneClosed] = []
        self.alerts: list[Alert] = []
        self._join = join_class(core)(PARTITION, JoinLimits(grace_ms=0, future_tolerance_ms=FAR_MS))
        self._aggregate = aggregate_class(core)(1, plans.plan)
        self._offsets = dict.fromkeys((PREDICTIONS, GROUND_TRUTH), 0)
        self.dead_letters: dict[str, int] = {}

    @property
    def totals(self) -> dict[str, int]:
        """The join's accounting."""
        return self._join.totals

    @property
    def waiting(self) -> bool:
        """Whether some pane is still to be closed."""
        return any(panes.boundary is not None for panes in self._aggregate.models.values())

    def champion(self, version: int, learnt: Learnt) -> list[Alert]:
        """Another version answers from here on."""
        self._learnt = learnt
        return self._told(self.book.champion_changed(version).alerts)

    def advance(self, predictions: Batch, labels: Batch, until_ms: int) -> Step:
        """Take in what happened before `until_ms`, the end of a pane, and close what it closes."""
        beat = Record(PREDICTIONS, PARTITION, 0, None, encode(Heartbeat(event_time_ms=until_ms)), HEARTBEAT, until_ms)
        records = {
            PREDICTIONS: self._records(PREDICTIONS, predictions, beat),
            GROUND_TRUTH: self._records(GROUND_TRUTH, labels, beat),
        }
        starts = dict(self._offsets)
        for topic, read in records.items():
            self._offsets[topic] += len(read)
        batch = Slice(records, starts, dict(self._offsets), dict.fromkeys(records, False), until_ms)
        outcome = self._join.process(batch, self.plans)
        self._join.commit()
        for letter in outcome.dead_letters:
            name = f"{letter.record.topic}: {letter.reason}"
            self.dead_letters[name] = self.dead_letters.get(name, 0) + 1
        events: list[AggregateEvent] = []
        for _, value in outcome.records:
            events += self._aggregate.take(value)
        told = [PartitionWatermark(PARTITION, outcome.watermark_ms, outcome.idle)]
        events += self._aggregate.take(encode_delta(WatermarkUpdate(told)))
        return self._observed(events)

    def _records(self, topic: str, batch: Batch, beat: Record) -> list[Record]:
        first = self._offsets[topic]
        records = [
            Record(topic, PARTITION, first + number, None, value, None, at)
            for number, (value, at) in enumerate(zip(batch.values, batch.times_ms.tolist(), strict=True))
        ]
        records.append(beat._replace(topic=topic, offset=first + len(records)))
        return records

    def _observed(self, events: Sequence[AggregateEvent]) -> Step:
        step = Step([], [])
        for event in events:
            if isinstance(event, QualityMetric):
                (self.estimates if event.estimated else self.quality).append(event)
                continue
            if isinstance(event, DriftMetric):
                self.drift.append(event)
                continue
            if isinstance(event, Observation):
                self.observations.append(event)
                effects = self.book.observed(event, self.spec)
            else:
                self.panes.append(event)
                effects = self.book.pane_closed(event, self.spec, self._learnt)
            step.alerts.extend(self._told(effects.alerts))
            step.requests.extend(effects.requests)
        return step

    def _told(self, alerts: Sequence[tuple[str, Alert]]) -> list[Alert]:
        told = [alert for _, alert in alerts]
        self.alerts += told
        return told

    def incidents(self) -> list[Alert]:
        """The last alert of each incident, in the order of opening."""
        last = {alert.incident_id: alert for alert in self.alerts}
        return sorted(last.values(), key=lambda alert: (alert.opened_at, alert.incident_id))

    def told_of(self, incident_id: str) -> Alert:
        """The last alert of an incident that had something to tell: when it closes, its crossings are over."""
        mine = [alert for alert in self.alerts if alert.incident_id == incident_id]
        return next((alert for alert in reversed(mine) if alert.evidence.get("observations")), mine[-1])
