"""The registry's agent: obeys `registry-commands` and publishes what anybody changed in the registry."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.control import run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.database.inbox import seen_before
from agents.registry import watched
from agents.registry.ledger import AGENT
from agents.registry.service import Registry
from agents.runtime import mark_ready
from schemas.codec import decode
from schemas.errors import ConflictError, DecodeError, NotFoundError, TransitionError
from schemas.events import (
    AnyRegistryCommand,
    ApproveVersion,
    EndProbation,
    ObserveVersion,
    RejectVersion,
    RollBackModel,
    SubmitCandidate,
)
from schemas.topics import REGISTRY_COMMANDS
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record

log = logging.getLogger(__name__)


class CommandHandler:
    """Carries out one command in the session of the record.

    Notes
    -----
    A command that the registry refuses becomes a dead letter with the refusal as its reason: the sender finds it
    there, and the stream goes on.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, session: Session, record: Record) -> None:
        command: AnyRegistryCommand = decode(record.value or b"", AnyRegistryCommand)  # type: ignore[arg-type]
        if seen_before(session, AGENT, f"command:{command.command_id}"):
            return
        try:
            self._obey(session, command)
        except (ConflictError, NotFoundError, TransitionError) as error:
            reason = {ConflictError: "conflict", NotFoundError: "not-found", TransitionError: "transition"}[type(error)]
            raise DecodeError(str(error), reason=reason) from error

    def _obey(self, session: Session, command: AnyRegistryCommand) -> None:
        registry = self._registry
        match command:
            case SubmitCandidate():
                decision = registry.submit(session, command)
                log.info("%s version %d: %s (%s)", command.model, command.version, decision, command.reason)
            case ApproveVersion():
                registry.approve(session, command.model, command.version, command.actor, command.comment)
            case RejectVersion():
                registry.reject(session, command.model, command.version, command.actor, command.reason)
            case RollBackModel():
                registry.rollback(
                    *(session, command.model, command.to),
                    actor=command.actor,
                    reason=command.reason,
                    expected=command.expected,
                    at=command.at,
                )
            case ObserveVersion():
                version = watched.observe(registry, session, command)
                log.info("%s version %s is number %d", command.model, command.external, version)
            case EndProbation():
                registry.end_probation(
                    *(session, command.model, command.version),
                    actor=command.actor,
                    reason=command.reason,
                    at=command.at,
                )


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Run the agent until `stop` is set."""
    sessions = session_factory(make_engine(settings.database))
    handler = CommandHandler(Registry(sessions, ArtifactStore.of(settings)))
    run_control_agent(
        AGENT,
        REGISTRY_COMMANDS,
        handler,
        settings,
        kafka,
        stop,
        sessions=sessions,
        # People decide in other processes; serving should hear of it within a tenth of a second.
        relay_poll_s=0.05,
        on_ready=lambda: mark_ready(settings, AGENT),
    )
