"""The archiving agent: reads committed records and writes them as Parquet files.

Notes
-----
Delivery: every record is archived once. The manifest, not the group's committed offset, says where a partition goes
on; the offset is committed after it, so that lag is what is not archived yet.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from agents.access.logic import Principal
from agents.archiving.compaction import Compactor
from agents.archiving.files import open_files
from agents.archiving.logic import ARCHIVED
from agents.archiving.manifest import TopicPartition
from agents.archiving.retention import expire, plan
from agents.archiving.writer import ArchiveWriter, FlushRules
from agents.config import Retention, Settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.runtime import mark_ready
from agents.subjects.keys import SubjectKeys
from agents.subjects.sending import ArchiveSealer
from schemas.errors import BrokerError, ConflictError
from streams.kafka.admin import topic_ids
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer
from streams.kafka.failpoints import failpoint

NAME = "archiving"
_BATCH = 5_000
_LINGER_S = 0.02
_SESSION_MS = 10_000
"""A worker that is dead for so long loses its partitions."""
_CLEAR_MS = 300_000

log = logging.getLogger(f"driftline.{NAME}")


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Archive until `stop` is set, then write what was gathered and leave the group.

    Raises
    ------
    FencedError
        Another worker took over a partition; the supervisor starts this one again.
    TopicError, RetentionPassedError, StateError, DatabaseUnavailableError, OSError
        Nothing was committed that was not archived.
    """
    engine = make_engine(settings.database)
    files = open_files(settings.archive)
    rules = FlushRules(
        max_rows=settings.archive_max_rows, max_age_ms=settings.archive_max_age_ms, idle_ms=settings.archive_idle_ms
    )
    sessions, readers = session_factory(engine), session_factory(engine, read_only=True)
    owner = f"{socket.gethostname()}:{os.getpid()}:{settings.slot}"
    writer = ArchiveWriter(files, sessions, owner, rules)
    compactor = Compactor(files, sessions, readers)
    sealer = ArchiveSealer(readers, SubjectKeys.of(settings))
    consumer = GroupConsumer(kafka, NAME, ARCHIVED, properties={"session.timeout.ms": _SESSION_MS})

    def assigned(
        partitions: Sequence[TopicPartition], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int]:
        start = writer.claim(partitions, topic_ids(kafka, ARCHIVED))
        compactor.claimed(partitions)
        mark_ready(settings, NAME)
        return start

    def revoked(partitions: Sequence[TopicPartition], lost: bool) -> None:
        writer.release(partitions)

    consumer.on_assign = assigned
    consumer.on_revoke = revoked
    clear_at_ms = time.monotonic_ns() // 1_000_000 + _CLEAR_MS
    retention = settings.retention
    wait_s = min(0.25, rules.idle_ms / 2000)
    try:
        while not stop.is_set():
            records = consumer.poll_batch(_BATCH, wait_s, _LINGER_S)
            now_ms = time.monotonic_ns() // 1_000_000
            writer.add(sealer.records(records), now_ms)
            positions = consumer.positions().next
            # Positions also move over transaction markers alone: whoever waits for the end of the log needs them.
            if writer.due(now_ms) or (writer.empty and consumer.drained() and writer.behind(positions)):
                compactor.written(_flush(writer, consumer, positions))
            # Also between two files of traffic that never ends: one step at a time.
            if writer.empty and not compactor.work(writer.claims) and now_ms >= clear_at_ms:
                clear_at_ms = now_ms + _CLEAR_MS
                if retention.keep_ms:
                    _let_go(sessions, readers, retention, writer)
                for partition in writer.claims:
                    compactor.clear(partition)
        _flush(writer, consumer, consumer.positions().next)
    finally:
        consumer.close()
        files.close()
        engine.dispose()


def _let_go(sessions: Sessions, readers: Sessions, retention: Retention, writer: ArchiveWriter) -> None:
    """Let files go whose time is up, of the partitions that this worker holds."""
    with readers() as session:
        found = plan(session, retention, time.time_ns() // 1_000_000, partitions=writer.claims.keys())
    if found.held:
        log.info("%d files are older than their retention and kept for %s", len(found.held), ", ".join(found.by))
    if not found.due:
        return
    try:
        with sessions.begin() as session:
            rows = expire(session, found.due, Principal(NAME, "system", authenticated=False), reason="retention")
    except ConflictError:
        return  # merged meanwhile: looked at again the next time
    log.info("%d files with %d rows are older than their retention and were let go", len(found.due), rows)


def _flush(
    writer: ArchiveWriter, consumer: GroupConsumer, positions: Mapping[TopicPartition, int]
) -> Collection[TopicPartition]:
    moved = writer.flush(positions)
    try:
        consumer.commit(moved)
    except BrokerError as error:
        # The manifest stands: whoever gets the partitions goes on behind it.
        log.warning("archived, but the offsets were not committed: %s", error)
    failpoint("archive-committed")
    return moved
