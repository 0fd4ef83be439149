"""The retraining agent: turns requests into runs, has them executed, and tells what became of them."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.orm import Session

from agents.archiving.dataset import covers
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.control import Background, run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.registry.service import Registry
from agents.retraining import jobs
from agents.retraining.logic import outcome, refusal
from agents.retraining.runner import Runner
from agents.retraining.watch import ProbationWatch
from agents.runtime import mark_ready
from schemas.codec import decode, to_ms
from schemas.errors import DecodeError, NotFoundError
from schemas.events import AnyRegistryEvent, RetrainRequest
from schemas.topics import GROUND_TRUTH, PREDICTIONS, REGISTRY_EVENTS, RETRAIN_REQUESTS
from streams.kafka.admin import end_offsets
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record

TICK_S = 0.05
log = logging.getLogger("driftline.retraining")


class Handler:
    """Writes what a record means, in the record's session."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, session: Session, record: Record) -> None:
        if record.topic == REGISTRY_EVENTS:
            self._registry_event(session, record)
        else:
            self._request(session, decode(record.value or b"", RetrainRequest))

    def _request(self, session: Session, request: RetrainRequest) -> None:
        for name, at in (("as_of", request.as_of), ("changed_at", request.changed_at)):
            if at is not None and at.tzinfo is None:
                raise DecodeError(f"{name} has no zone", reason="schema")
        if jobs.known(session, request.request_id):
            return
        try:
            champion = self._registry.champion(session, request.model)
            spec = self._registry.specification(session, request.model)
        except NotFoundError as error:
            raise DecodeError(str(error), reason="unknown-model") from error
        why = refusal(
            request,
            spec,
            open_run=jobs.open_run(session, request.model),
            champion=champion.version if champion is not None else None,
            last_as_of_ms=jobs.last_automatic_ms(session, request.model),
            as_of_ms=to_ms(request.as_of),
        )
        run_id = jobs.accept(session, request, skipped=why)
        log.info("run %s of %s (%s): %s", run_id, request.model, request.trigger, why or "queued")

    def _registry_event(self, session: Session, record: Record) -> None:
        try:
            event: AnyRegistryEvent = decode(record.value or b"", AnyRegistryEvent)  # type: ignore[arg-type]
        except DecodeError as error:
            # Ours to write, so nobody's dead letter: the registry's own history is in its database.
            log.warning("registry-events %d/%d: %s", record.partition, record.offset, error)
            return
        found = outcome(event)
        if found is not None and jobs.decided(session, event.model, *found):
            log.info("%s version %d: %s", event.model, *found)


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Run the agent until `stop` is set."""
    sessions = session_factory(make_engine(settings.database))
    registry = Registry(sessions, ArtifactStore.of(settings))
    watch = ProbationWatch(sessions, kafka)
    runner = Runner(settings, sessions, lambda: end_offsets(kafka, (PREDICTIONS, GROUND_TRUTH)), covers)
    try:
        run_control_agent(
            jobs.AGENT,
            (RETRAIN_REQUESTS, REGISTRY_EVENTS),
            Handler(registry),
            settings,
            kafka,
            stop,
            background=[Background(TICK_S, runner.tick), Background(TICK_S, watch.tick)],
            sessions=sessions,
            on_ready=lambda: mark_ready(settings, jobs.AGENT),
        )
    finally:
        runner.close()
        watch.close()
