"""The registry's agent: obeys `registry-commands` and publishes what anybody changed in the registry."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.access.signatures import audience_of, own_ring
from agents.access.signers import Signers
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.control import Background, run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.database.inbox import seen_before
from agents.registry import approvals, watched
from agents.registry.intact import tell_altered
from agents.registry.ledger import AGENT, acting_for
from agents.registry.refusals import tell_refusal
from agents.registry.service import Registry
from agents.runtime import mark_ready
from agents.signing import KeyRing
from schemas.codec import decode
from schemas.errors import ArtifactError, ConflictError, DecodeError, NotFoundError, TransitionError
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

LAPSE_EVERY_S = 10.0

log = logging.getLogger(__name__)


class CommandHandler:
    """Carries out one command in the session of the record, where a signature says whose it is.

    Parameters
    ----------
    registry : Registry
    audience : str
        Whom commands have to be signed for (`agents.access.signatures`).
    ring : KeyRing
        Keys of this home's agents: believed unless they were revoked.

    Notes
    -----
    A command that is not believed is audited and becomes a dead letter. One that the registry refuses becomes a dead
    letter with the refusal as its reason: the sender finds it there, and the stream goes on. That a version's file was
    altered is audited, too.
    """

    def __init__(self, registry: Registry, audience: str, ring: KeyRing) -> None:
        self._registry = registry
        self._audience = audience
        self._ring = ring
        self._signers = Signers(registry.now)

    def __call__(self, session: Session, record: Record) -> DecodeError | None:
        command: AnyRegistryCommand = decode(record.value or b"", AnyRegistryCommand)  # type: ignore[arg-type]
        try:
            by = self._signer(session, record, command)
        except DecodeError as error:
            tell_refusal(
                *(session, self._registry.now(), record, error),
                model=command.model,
                actor=command.actor,
                command=type(command).__name__,
                command_id=command.command_id,
            )
            return error
        acting_for(session, by)
        try:
            # What an altered file keeps from being done leaves an audit row, and is not used up.
            with session.begin_nested():
                if not seen_before(session, AGENT, f"command:{command.command_id}"):
                    self._obey(session, command)
        except ArtifactError as error:
            if not isinstance(command, (ApproveVersion, SubmitCandidate)):
                raise
            tell_altered(
                *(session, self._registry.now(), command.model, command.version, command.actor, error),
                command=type(command).__name__,
                command_id=command.command_id,
            )
            return DecodeError(str(error), reason="artifact")
        except (ConflictError, NotFoundError, TransitionError) as error:
            reason = {ConflictError: "conflict", NotFoundError: "not-found", TransitionError: "transition"}[type(error)]
            raise DecodeError(str(error), reason=reason) from error
        return None

    def _signer(self, session: Session, record: Record, command: AnyRegistryCommand) -> Principal:
        try:
            return self._signers.principal(session, record, command, self._audience)
        except DecodeError as error:
            if error.reason != "untrusted":
                raise
            # An agent of this home may have made or changed its key since we started.
            self._signers.trust_own(session, self._ring)
            return self._signers.principal(session, record, command, self._audience)

    def _obey(self, session: Session, command: AnyRegistryCommand) -> None:
        registry = self._registry
        match command:
            case SubmitCandidate():
                decision = registry.submit(session, command)
                log.info("%s version %d: %s (%s)", command.model, command.version, decision, command.reason)
            case ApproveVersion():
                registry.approve(
                    *(session, command.model, command.version, command.actor, command.comment),
                    consented=command.consented,
                )
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
    ring = own_ring(settings.home)
    with sessions.begin() as session:
        Signers().trust_own(session, ring)
    registry = Registry(sessions, ArtifactStore.of(settings))
    handler = CommandHandler(registry, audience_of(kafka), ring)
    readers = session_factory(sessions.kw["bind"], read_only=True)

    def lapse() -> None:
        if approvals.due(registry, readers):
            with sessions.begin() as session:
                acting_for(session, Principal("expiry", "system", authenticated=True))
                for model, version in approvals.lapse_due(registry, session):
                    log.info("%s version %d: nobody decided in time", model, version)

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
        background=[Background(LAPSE_EVERY_S, lapse)],
        on_ready=lambda: mark_ready(settings, AGENT),
    )
