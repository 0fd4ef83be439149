"""Reads what the agents publish and folds it into the board.

Notes
-----
Without consumer group and commits: every gateway reads all of the series, incidents and events from their beginning
and then stays at the end. A record that cannot be decoded is counted and passed over: the page is a reader, dead
letters are the writers' matter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from typing import cast

import msgspec

from agents.gateway.shared import SharedBoard
from schemas import codec, topics
from schemas.errors import DecodeError
from schemas.events import (
    FLEET,
    Alert,
    AnyRegistryEvent,
    AnyServingEvent,
    AnyTrainingEvent,
    CommandRefused,
    DriftMetric,
    JournalRecord,
    QualityMetric,
    RegistryEvent,
    ServingEvent,
    TrainingEvent,
)
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail, newest
from streams.kafka.records import Record

log = logging.getLogger(__name__)

HISTORY = (
    topics.REGISTRY_EVENTS,
    topics.QUALITY_METRICS,
    topics.DRIFT_METRICS,
    topics.ALERTS,
    topics.TRAINING_EVENTS,
    topics.SERVING_EVENTS,
)
POLL_S = 0.2


def is_journal(record: Record) -> bool:
    """Whether a record of the journal is a commit of the join (its partitions also carry snapshots)."""
    return record.value is not None and (record.key or b"").startswith(b"join-")


class Feed:
    """Follows the topics and folds their records.

    Parameters
    ----------
    kafka : KafkaConfig
    board : SharedBoard
    """

    def __init__(self, kafka: KafkaConfig, board: SharedBoard) -> None:
        self._kafka = kafka
        self._board = board

    def run(self, stop: Event, ready: Callable[[], None] = lambda: None) -> None:
        """Follow until `stop`; `ready` is called once history has been read.

        Raises
        ------
        BrokerError
            The broker is gone for good; the process ends and the supervisor starts it again.
        """
        journal = Tail(self._kafka, [topics.MONITORING_JOURNAL], False)
        history = Tail(self._kafka, list(HISTORY), True)
        try:
            # The tail stands at the end before the newest records are looked up: nothing falls between.
            journal.poll(0)
            self.fold(list(newest(self._kafka, topics.MONITORING_JOURNAL, wanted=is_journal).values()))
            while not stop.is_set():
                self.fold(history.poll(POLL_S))
                self.fold([record for record in journal.poll(0) if is_journal(record)])
                if not self._board.caught_up and history.caught_up():
                    self._board.caught_up = True
                    ready()
        finally:
            history.close()
            journal.close()

    def fold(self, records: list[Record]) -> None:
        """Decode and fold; records of unknown form are counted."""
        for record in records:
            try:
                self._fold_one(record)
            except (DecodeError, msgspec.MsgspecError) as error:
                self._board.rejected += 1
                log.warning("passed over %s/%d@%d: %s", record.topic, record.partition, record.offset, error)

    def _fold_one(self, record: Record) -> None:
        data = record.value or b""
        match record.topic:
            case topics.QUALITY_METRICS:
                quality = codec.decode(data, QualityMetric)
                with self._board.use() as board:
                    board.add_quality(quality)
            case topics.DRIFT_METRICS:
                drift = codec.decode(data, DriftMetric)
                with self._board.use() as board:
                    board.add_drift(drift)
            case topics.ALERTS:
                alert = codec.decode(data, Alert)
                with self._board.use() as board:
                    board.add_alert(alert)
            case topics.MONITORING_JOURNAL:
                entry = codec.decode(data, JournalRecord)
                with self._board.use() as board:
                    board.add_journal(entry)
            case topics.REGISTRY_EVENTS:
                self._fold_event(codec.decode(data, cast("type[RegistryEvent]", AnyRegistryEvent)))
            case topics.TRAINING_EVENTS:
                self._fold_event(codec.decode(data, cast("type[TrainingEvent]", AnyTrainingEvent)))
            case topics.SERVING_EVENTS:
                self._fold_event(codec.decode(data, cast("type[ServingEvent]", AnyServingEvent)))

    def _fold_event(self, event: RegistryEvent | TrainingEvent | ServingEvent) -> None:
        if event.model == FLEET:
            return  # who may what: no model's history
        with self._board.use() as board:
            if isinstance(event, CommandRefused) and event.model not in board.models:
                return  # anybody can name a model
            board.add_event(event)
