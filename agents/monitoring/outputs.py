"""What monitoring finds, as records with derived ids: sent again after a failure, they are the same."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.codec import cloudevent_headers, derived_id, encode, segment_key, to_ms
from schemas.events import DriftMetric, Observation, PaneClosed, QualityMetric
from schemas.topics import DRIFT_METRICS, OBSERVATIONS, QUALITY_METRICS
from streams.aggregate import AggregateEvent
from streams.kafka.records import Output

SOURCE: Final = "/driftline/monitoring"
AGAIN_MS: Final = 43_200_000
"""Event time after which what nobody may be there to end is said again: what is not repeated is over
(`agents.alerting.crossing`)."""


def event_output(event: AggregateEvent) -> Output:
    """The record of an event."""
    topic, event_id, at = _addressed(event)
    headers: list[tuple[str, bytes | None]] = [*cloudevent_headers(event, event_id=event_id, source=SOURCE, at=at)]
    return Output(topic, encode(event), event.model.encode(), headers)


def _addressed(event: AggregateEvent) -> tuple[str, str, Any]:
    """Topic, derived id and event time of an event."""
    if isinstance(event, Observation):
        return OBSERVATIONS, event.observation_id, event.observed_at
    if isinstance(event, PaneClosed):
        return OBSERVATIONS, derived_id("pane-closed", event.model, to_ms(event.pane_end)), event.observed_at
    subject = segment_key(event.segment)
    topic = QUALITY_METRICS
    if isinstance(event, DriftMetric):
        topic, subject = DRIFT_METRICS, event.subject
    end = to_ms(event.window_end)
    parts: list[object] = [topic, event.model, event.version, subject, event.window, end, event.state, event.revision]
    if isinstance(event, QualityMetric) and event.estimated:
        parts.append("estimated")
    elif event.state == "provisional" and isinstance(event, QualityMetric):
        parts += [event.n, msgspec.json.encode(event.metrics)]
    return topic, derived_id(*parts), event.window_end
