"""Follows the series of models on probation, and asks the registry to end it: to go back, or to stay.

The series has the rate of traffic times windows times segments, far too much for an inbox. It is read without a group
and dropped at once, unless its model is on probation. State, position and command are one transaction: after a crash
reading goes on where the last one ended, and what is read again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.database.engine import Sessions, session_factory
from agents.database.outbox import enqueue
from agents.registry.questions import Questions
from agents.registry.tables import ModelRow
from agents.registry.views import VersionInfo
from agents.retraining import jobs
from agents.retraining.probation import Outcome, Probation
from agents.retraining.tables import ProbationRow, ReadingPositionRow, RunRow
from schemas.codec import decode, derived_id
from schemas.errors import DecodeError
from schemas.events import EndProbation, QualityMetric, RollBackModel
from schemas.topics import QUALITY_METRICS, REGISTRY_COMMANDS
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail
from streams.kafka.records import Record

POLICY = "policy:probation"
"""The actor of what a probation's end does."""
Positions = dict[tuple[str, int], int]
log = logging.getLogger("driftline.retraining")


class ProbationWatch:
    """Reads `quality-metrics`; `tick` is called again and again and never waits.

    Parameters
    ----------
    sessions : Sessions
    kafka : KafkaConfig

    Notes
    -----
    Which models are on probation is asked after reading: a promotion is in the database before the first window that
    the new version answered. Several agents may watch at once; whoever is second finds the window taken.
    """

    def __init__(self, sessions: Sessions, kafka: KafkaConfig) -> None:
        self._sessions = sessions
        self._readers = session_factory(sessions.kw["bind"], read_only=True)
        self._kafka = kafka
        self._tail: Tail | None = None
        self._unsaved: Positions = {}

    def tick(self) -> None:
        """Take in what has come since the last call.

        Raises
        ------
        TopicError, BrokerError
        """
        if self._tail is None:
            self._tail = self._opened()
        records = self._tail.poll(0.0)
        if not records and not self._unsaved:
            return
        self._unsaved.update({(record.topic, record.partition): record.offset + 1 for record in records})
        with self._readers() as session:
            models = on_probation(session)
        if records and not models:
            return  # kept when there is time
        with self._sessions.begin() as session:
            take_all(session, (record for record in records if (record.key or b"").decode() in models))
            _save(session, self._unsaved)
        self._unsaved = {}

    def close(self) -> None:
        """Let go of the connection."""
        if self._tail is not None:
            self._tail.close()

    def _opened(self) -> Tail:
        """From where the last agent ended; without that, from the beginning only if a model is on probation."""
        with self._readers() as session:
            rows = session.scalars(select(ReadingPositionRow).where(ReadingPositionRow.agent == jobs.AGENT))
            known: Positions = {(row.topic, row.partition): row.next_offset for row in rows}
            late = bool(on_probation(session))
        tail = Tail(self._kafka, [QUALITY_METRICS], from_beginning=late, offsets=known)
        self._unsaved = dict(tail.positions)
        return tail


def on_probation(session: Session) -> set[str]:
    """Models whose former champion answers in shadow."""
    return set(session.scalars(select(ModelRow.name).where(ModelRow.shadow.is_not(None))))


def take_all(session: Session, records: Iterable[Record]) -> None:
    """Take in the metrics of models on probation, in the order of their topic."""
    registry = Questions()
    current: dict[str, tuple[ProbationRow, Probation] | None] = {}
    for record in records:
        try:
            metric = decode(record.value or b"", QualityMetric)
        except DecodeError as error:
            log.warning("%s %d/%d left out: %s", record.topic, record.partition, record.offset, error)
            continue
        if metric.model not in current:
            current[metric.model] = _current(session, registry, metric.model)
        found = current[metric.model]
        if found is None:
            continue
        row, probation = found
        outcome = probation.take(metric)
        if outcome is not None:
            _end(session, row, outcome)
            current[metric.model] = None
    for found in current.values():
        if found is not None:
            found[0].state = found[1].snapshot()


def _current(session: Session, registry: Questions, model: str) -> tuple[ProbationRow, Probation] | None:
    """The probation of the champion as it stands, begun where this is the first window; None where it is decided."""
    found = session.get(ProbationRow, model, with_for_update=True)
    models = session.get(ModelRow, model)
    champion = registry.champion(session, model)
    if models is None or models.shadow is None or champion is None or champion.promoted_at is None:
        return None
    if found is not None and (found.version, found.promoted_at) == (champion.version, champion.promoted_at):
        return (found, Probation.from_snapshot(found.state)) if found.status == "running" else None
    begun = _begun(session, registry, champion, models.shadow)
    if begun is None:
        return None
    row = session.merge(
        ProbationRow(
            model=model,
            version=champion.version,
            previous=models.shadow,
            promoted_at=champion.promoted_at,
            status="running",
            state=begun.snapshot(),
            reason="",
            report=None,
        )
    )
    log.info("%s version %d is on probation beside version %d", model, champion.version, models.shadow)
    return row, begun


def _begun(session: Session, registry: Questions, champion: VersionInfo, shadow: int) -> Probation | None:
    spec = registry.specification(session, champion.model, champion.version)
    return Probation.begin(spec, version=champion.version, previous=shadow, report=champion.report)


def _end(session: Session, row: ProbationRow, outcome: Outcome) -> None:
    """Keep the outcome with probation and run, and ask the registry for what follows."""
    row.status, row.reason, row.report = outcome.decision, outcome.reason, outcome.report
    told: dict[str, Any] = {
        "command_id": derived_id("probation", row.model, row.version, row.promoted_at.isoformat()),
        "model": row.model,
        "actor": POLICY,
        "reason": outcome.reason,
        "at": outcome.at,
    }
    command: RollBackModel | EndProbation
    if outcome.decision == "rolled-back":
        command = RollBackModel(to=row.previous, expected=row.version, **told)
    else:
        command = EndProbation(version=row.version, **told)
    enqueue(session, jobs.AGENT, REGISTRY_COMMANDS, row.model, command, command.command_id, datetime.now(UTC))
    run = session.scalar(select(RunRow).where(RunRow.model == row.model, RunRow.version == row.version))
    if run is not None:
        run.outcome = f"{run.outcome}; {outcome.reason}"
        run.report = {**(run.report or {}), "probation": {"decision": outcome.decision, **outcome.report}}
    log.info("%s version %d: %s (%s)", row.model, row.version, outcome.decision, outcome.reason)


def _save(session: Session, positions: Positions) -> None:
    for (topic, partition), offset in positions.items():
        row = session.get(ReadingPositionRow, (jobs.AGENT, topic, partition))
        if row is None:
            session.add(ReadingPositionRow(agent=jobs.AGENT, topic=topic, partition=partition, next_offset=offset))
        else:
            row.next_offset = max(row.next_offset, offset)
