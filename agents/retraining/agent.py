"""The retraining agent: turns requests into runs, has them executed, and tells what became of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from agents.access.askers import Askers, Believe
from agents.archiving.dataset import covers
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.control import Background, run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.registry import watched
from agents.registry.refusals import tell_refusal
from agents.registry.service import Registry
from agents.registry.views import VersionInfo
from agents.retraining import jobs, learning
from agents.retraining.code import CodeWatch
from agents.retraining.logic import outcome, refusal
from agents.retraining.runner import Runner
from agents.retraining.watch import ProbationWatch
from agents.runtime import mark_ready
from schemas.codec import decode, to_ms
from schemas.errors import DecodeError, NotFoundError
from schemas.events import AnyObservation, AnyRegistryEvent, PaneClosed, RetrainRequest, VersionObserved
from schemas.topics import GROUND_TRUTH, OBSERVATIONS, PREDICTIONS, REGISTRY_EVENTS, RETRAIN_REQUESTS
from streams.kafka.admin import end_offsets
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record

TICK_S = 0.05
log = logging.getLogger("driftline.retraining")


class Handler:
    """Writes what a record means, in the record's session.

    Parameters
    ----------
    registry : Registry
    projects : sequence of Path
        Folders whose code is that of the models.
    believe : callable, optional
        Says who asks for a successor, or why nobody is believed; None: requests are not looked at (no topic is read).

    Notes
    -----
    A request that is not believed is audited and becomes a dead letter; it does not use its id up.
    """

    def __init__(self, registry: Registry, projects: Sequence[Path] = (), *, believe: Believe | None = None) -> None:
        self._registry = registry
        self._believe = believe
        self._code = CodeWatch(registry, projects)

    def __call__(self, session: Session, record: Record) -> DecodeError | None:
        if record.topic == REGISTRY_EVENTS:
            self._registry_event(session, record)
        elif record.topic == OBSERVATIONS:
            self._observation(session, record)
        else:
            request = decode(record.value or b"", RetrainRequest)
            if (refused := self._refused(session, record, request)) is not None:
                return refused
            self._request(session, request)
        return None

    def _refused(self, session: Session, record: Record, request: RetrainRequest) -> DecodeError | None:
        if self._believe is None:
            return None
        try:
            self._believe(session, record, request)
        except DecodeError as error:
            tell_refusal(
                *(session, self._registry.now(), record, error),
                model=request.model,
                actor=request.requested_by,
                command=type(request).__name__,
                command_id=request.request_id,
            )
            return error
        return None

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
        if watched.is_watched(session, request.model):
            self._elsewhere(session, request, champion)
            return
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

    def _elsewhere(self, session: Session, request: RetrainRequest, newest: VersionInfo | None) -> None:
        """Nobody trains here: the notifying agent tells who does, and the next version that appears is the answer."""
        earlier = jobs.asked_elsewhere(session, request.model)
        why = None if earlier is None else f"request {earlier[:8]} of this model has not been answered by a new version"
        run_id = jobs.accept(session, request, skipped=why, elsewhere=True)
        log.info("run %s of %s (%s): %s", run_id, request.model, request.trigger, why or "asked for elsewhere")
        # The answer may have been seen before what it answers was read.
        if why is None and newest is not None and newest.reason == watched.FIRST_SEEN:
            jobs.answered(session, request.model, newest.version, f"version {newest.external} appeared", at=newest.at)

    def _registry_event(self, session: Session, record: Record) -> None:
        try:
            event: AnyRegistryEvent = decode(record.value or b"", AnyRegistryEvent)  # type: ignore[arg-type]
        except DecodeError as error:
            # Ours to write, so nobody's dead letter: the registry's own history is in its database.
            log.warning("registry-events %d/%d: %s", record.partition, record.offset, error)
            return
        if isinstance(event, VersionObserved):
            self._appeared(session, event)
            return
        found = outcome(event)
        if found is not None and jobs.decided(session, event.model, *found):
            log.info("%s version %d: %s", event.model, *found)

    def _observation(self, session: Session, record: Record) -> None:
        """Event time moved on: a watched model's reference may be due to be learnt, code may have changed."""
        try:
            event: AnyObservation = decode(record.value or b"", AnyObservation)  # type: ignore[arg-type]
        except DecodeError:
            return  # alerting dead-letters it
        if not isinstance(event, PaneClosed):
            return
        if watched.is_watched(session, event.model):
            run_id = learning.due(self._registry, session, event)
            if run_id is not None:
                log.info("run %s of %s: its reference is learnt", run_id, event.model)
        elif (run_id := self._code.due(session, event)) is not None:
            log.info("run %s of %s (code): queued", run_id, event.model)

    def _appeared(self, session: Session, event: VersionObserved) -> None:
        """A new version of a watched model answers what was asked; another reference of a known one does not."""
        if event.reason == watched.FIRST_SEEN and jobs.answered(
            session, event.model, event.version, f"version {event.external} appeared", at=event.at
        ):
            log.info("%s version %d (%s) is the answer", event.model, event.version, event.external)


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Run the agent until `stop` is set."""
    sessions = session_factory(make_engine(settings.database))
    registry = Registry(sessions, ArtifactStore.of(settings))
    watch = ProbationWatch(sessions, kafka)
    runner = Runner(settings, sessions, lambda: end_offsets(kafka, (PREDICTIONS, GROUND_TRUTH)), covers)
    try:
        run_control_agent(
            jobs.AGENT,
            (RETRAIN_REQUESTS, REGISTRY_EVENTS, OBSERVATIONS),
            Handler(registry, [Path(folder) for folder in settings.projects], believe=Askers.of(settings, kafka)),
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
