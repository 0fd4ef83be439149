"""The serving agent: inference requests in, predictions out, exactly once; versions swap between two batches."""

from __future__ import annotations

import threading
from functools import partial

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.runtime import mark_ready
from agents.serving.handler import ServingHandler
from agents.serving.logic import VersionTable
from agents.serving.model import load, specification
from agents.serving.private import GROUP, Privacy
from agents.serving.registry_follower import RegistryFollower
from agents.serving.staging import Stage
from agents.subjects.keys import SubjectKeys
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.events import AnyServingEvent, ModelSwapped
from schemas.topics import INFERENCE_REQUESTS, SERVING_EVENTS
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.kafka.reader import read_all

_IDLE_MS = 50
"""How often the registry is looked at while no request comes: a swap does not wait for traffic."""


def last_served(kafka: KafkaConfig, worker: str) -> dict[str, int]:
    """The version this worker answered with last, by model, from its own swap events."""
    served: dict[str, int] = {}
    for record in read_all(kafka, SERVING_EVENTS):
        try:
            event: AnyServingEvent = decode(record.value or b"", AnyServingEvent)  # type: ignore[arg-type]
        except DecodeError:
            continue  # not ours; the next swap says again what is served
        if isinstance(event, ModelSwapped) and event.worker == worker:
            served[event.model] = event.to_version
    return served


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    BrokerError, FencedError
        The process must end; its supervisor starts another.
    """
    store = ArtifactStore.of(settings)
    privacy = Privacy(SubjectKeys.of(settings), partial(specification, store))
    stage = Stage(lambda model, version: privacy.loaded(load(store, model, version)))
    follower = RegistryFollower(kafka, VersionTable())
    try:
        handler = ServingHandler(
            follower,
            stage,
            worker=settings.slot,
            served=last_served(kafka, settings.slot),
            privacy=privacy,
            on_ready=partial(mark_ready, settings, "serving"),
        )
        BatchProcessor(
            kafka,
            group=GROUP,
            topics=[INFERENCE_REQUESTS],
            transactional_id=f"serving-{settings.slot}",
            handler=handler,
            options=ProcessorOptions(
                batch_records=settings.batch_records,
                commit_interval_ms=settings.commit_interval_ms,
                idle_ms=_IDLE_MS,
            ),
        ).run(stop)
    finally:
        follower.close()
        stage.close()
