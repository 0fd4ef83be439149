"""The alerting agent: observations become alerts and requests for a successor.

Notes
-----
The alert book of a model, its incidents and the outgoing events are written in the transaction of the record that
caused them; the outbox sends the events afterwards, with ids that a repeat would carry too.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from agents.alerting.budget import share
from agents.alerting.fleet_store import FleetStore
from agents.alerting.incident import Effects
from agents.alerting.logic import AlertBook
from agents.alerting.standing import standings
from agents.alerting.tables import AlertBookRow, IncidentRow
from agents.alerting.together import join_fleet
from agents.alerting.triggers import Learnt
from agents.config import Settings
from agents.control import run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import enqueue
from agents.registry.questions import Questions
from agents.registry.watched import external_name
from agents.runtime import mark_ready
from schemas.codec import decode, segment_key, to_ms, utc
from schemas.errors import DecodeError, NotFoundError
from schemas.events import (
    Alert,
    AnyObservation,
    AnyRegistryEvent,
    AnyServingEvent,
    AnyTrainingEvent,
    ModelPromoted,
    ModelRefused,
    ModelRolledBack,
    ModelSwapped,
    Observation,
    RunStarted,
    VersionObserved,
)
from schemas.specification import Specification
from schemas.topics import ALERTS, OBSERVATIONS, REGISTRY_EVENTS, RETRAIN_REQUESTS, SERVING_EVENTS, TRAINING_EVENTS
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record

NAME = "alerting"
TOPICS = (OBSERVATIONS, REGISTRY_EVENTS, TRAINING_EVENTS, SERVING_EVENTS)

log = logging.getLogger(f"driftline.{NAME}")


class AlertHandler:
    """Applies one record to the book of its model.

    Parameters
    ----------
    page : str
        Address of the page, as alerts link to it.
    fleet_budget_per_ms : float, optional
        False incidents tolerated over all registered models together; None: each model has its own budget only.
    """

    def __init__(self, page: str, fleet_budget_per_ms: float | None = None) -> None:
        self._page = page
        self._questions = Questions()
        self._fleet = FleetStore()
        self._fleet_budget = fleet_budget_per_ms
        self._models: int | None = None

    def __call__(self, session: Session, record: Record) -> None:
        """Decide and write.

        Raises
        ------
        DecodeError
            An observation that is none; dead-lettered by the caller.
        """
        try:
            self._handle(session, record)
        except BaseException:
            self._fleet.forget()  # the transaction is rolled back
            raise

    def _handle(self, session: Session, record: Record) -> None:
        if record.topic == OBSERVATIONS:
            self._observed(session, record)
            return
        try:
            self._followed(session, record)
        except DecodeError as error:
            # What other agents tell has no dead letters: those topics are read by many, and theirs is the record.
            log.warning("%s-%d@%d left out: %s", record.topic, record.partition, record.offset, error)

    def _observed(self, session: Session, record: Record) -> None:
        event: AnyObservation = decode(record.value or b"", AnyObservation)  # type: ignore[arg-type]
        book, row = _load(session, event.model)
        spec = self._specification(session, event.model)
        if isinstance(event, Observation):
            effects = book.observed(event, spec, self._share(session))
        else:
            wanted = spec is not None and "data" in spec.retraining.triggers
            effects = book.pane_closed(event, spec, self._learnt(session, event.model) if wanted else None)
        self._store(session, book, row, effects, spec)

    def _followed(self, session: Session, record: Record) -> None:
        """News of registry, runs and serving."""
        value = record.value or b""
        if record.topic == REGISTRY_EVENTS:
            self._models = None
            event: AnyRegistryEvent = decode(value, AnyRegistryEvent)  # type: ignore[arg-type]
            if isinstance(event, ModelPromoted | ModelRolledBack):
                book, row = _load(session, event.model)
                self._store(session, book, row, book.champion_changed(event.version))
            elif isinstance(event, VersionObserved):
                book, row = _load(session, event.model)
                self._store(session, book, row, book.version_seen(event.version, event.external))
        elif record.topic == TRAINING_EVENTS:
            run: AnyTrainingEvent = decode(value, AnyTrainingEvent)  # type: ignore[arg-type]
            if not isinstance(run, RunStarted):
                book, row = _load(session, run.model)
                book.run_ended()
                self._store(session, book, row, Effects())
        else:
            served: AnyServingEvent = decode(value, AnyServingEvent)  # type: ignore[arg-type]
            book, row = _load(session, served.model)
            if isinstance(served, ModelRefused):
                self._store(session, book, row, book.refused(served))
            elif isinstance(served, ModelSwapped):
                self._store(session, book, row, book.recovered(served.to_version))

    def _learnt(self, session: Session, model: str) -> Learnt | None:
        """What the champion was made from; of one that is trained elsewhere: whatever came before it appeared.

        Notes
        -----
        Asked of the registry at every pane rather than kept from its events: topics have no order between them.
        """
        champion = self._questions.champion(session, model)
        if champion is None:
            return None
        dataset = champion.dataset
        if "labelled" in dataset and "last_event" in dataset:
            return Learnt(rows=int(dataset["labelled"]), until_ms=to_ms(datetime.fromisoformat(dataset["last_event"])))
        return Learnt(rows=None, until_ms=to_ms(champion.at))

    def _share(self, session: Session) -> float | None:
        """What one model may raise of the fleet's budget, by the number of registered models."""
        if self._fleet_budget is None:
            return None
        if self._models is None:
            self._models = self._questions.model_count(session)
        return share(self._fleet_budget, self._models)

    def _specification(self, session: Session, model: str) -> Specification | None:
        try:
            return self._questions.specification(session, model)
        except NotFoundError:
            return None

    def _store(
        self,
        session: Session,
        book: AlertBook,
        row: AlertBookRow | None,
        effects: Effects,
        spec: Specification | None = None,
    ) -> None:
        """Books, incidents and outgoing events, in the caller's transaction."""
        told = self._together(session, book, row is None, effects, spec)
        if row is None:
            session.add(AlertBookRow(model=book.model, book=book.snapshot()))
        else:
            row.book = book.snapshot()
        at = utc(book.clock_ms)
        for event_id, alert in told:
            linked = msgspec.structs.replace(alert, links={"page": self._page} if self._page else {})
            external = external_name(session, alert.model, alert.version)
            if external is not None:
                called = f"Version {linked.version} is called {external} where it is served."
                linked = msgspec.structs.replace(
                    linked,
                    evidence={**linked.evidence, "external_version": external},
                    explanation=f"{linked.explanation} {called}",
                )
            session.merge(_incident(linked))
            enqueue(session, NAME, ALERTS, alert.model, linked, event_id, at)
            log.info("%s %s: %s", alert.severity, alert.status, alert.title)
        for request in effects.requests:
            enqueue(session, NAME, RETRAIN_REQUESTS, book.model, request, request.request_id, at)
            log.info("asked for a successor of %s: %s (%s)", request.model, request.trigger, request.reason)

    def _together(
        self, session: Session, book: AlertBook, new: bool, effects: Effects, spec: Specification | None
    ) -> list[tuple[str, Alert]]:
        """What is told: the fleet's news, and the model's own where no fleet incident speaks for it."""
        fleet = self._fleet.load(session)
        fleet.models += new
        others: dict[str, tuple[AlertBook, AlertBookRow | None]] = {book.model: (book, None)}

        def book_of(model: str) -> AlertBook:
            if model not in others:
                others[model] = _load(session, model)
            return others[model][0]

        if spec is None and book.incidents:
            spec = self._specification(session, book.model)
        told = join_fleet(fleet, book, effects, standings(book, spec, self._share(session)), book_of)
        for other, row in others.values():
            if row is not None:
                row.book = other.snapshot()
        self._fleet.save(session)
        return told


def _load(session: Session, model: str) -> tuple[AlertBook, AlertBookRow | None]:
    row = session.get(AlertBookRow, model, with_for_update=True)
    return (AlertBook(model=model), None) if row is None else (AlertBook.from_snapshot(row.book), row)


def _incident(alert: Alert) -> IncidentRow:
    return IncidentRow(
        incident_id=alert.incident_id,
        model=alert.model,
        version=alert.version,
        kind=alert.kind,
        subject=alert.subject,
        segment=segment_key(alert.segment),
        severity=alert.severity,
        status=alert.status,
        opened_at=alert.opened_at,
        closed_at=alert.closed_at,
        title=alert.title,
        explanation=alert.explanation,
        evidence=alert.evidence,
    )


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Alert until `stop` is set.

    Raises
    ------
    ConfigurationError
        The fleet's budget is no rate.
    TopicError, BrokerError, DatabaseUnavailableError
        The supervisor starts the agent again; nothing is alerted twice.
    """
    sessions = session_factory(make_engine(settings.database))
    page = f"http://{settings.host}:{settings.port}/" if settings.port else ""
    run_control_agent(
        NAME,
        TOPICS,
        AlertHandler(page, settings.fleet_budget_per_ms),
        settings,
        kafka,
        stop,
        sessions=sessions,
        on_ready=lambda: mark_ready(settings, NAME),
    )
