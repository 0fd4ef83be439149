"""The archive protocol: write → publish → manifest → (the caller commits the offsets)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sqlalchemy.orm import Session, sessionmaker

from agents.archiving import manifest
from agents.archiving.files import Draft, Files, file_path, parquet_bytes
from agents.archiving.logic import Rows
from agents.archiving.manifest import Claim, NewFile, TopicPartition
from streams.kafka.failpoints import failpoint
from streams.kafka.records import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlushRules:
    """When files are written: at `max_rows` or `max_bytes` gathered, `max_age_ms`, or `idle_ms` without a record."""

    max_rows: int = 100_000
    max_bytes: int = 64_000_000
    max_age_ms: int = 30_000
    idle_ms: int = 2_000


class ArchiveWriter:
    """Gathers records of the partitions it holds and writes them as files.

    Parameters
    ----------
    files : Files
    sessions : sessionmaker
        Writing sessions on the manifest.
    owner : str
        Names this worker in the manifest.
    rules : FlushRules

    Notes
    -----
    A crash at any step loses nothing and repeats nothing: before the manifest row exists the file is invisible and its
    records are read again; after it, the partition is resumed behind them, whatever offset was committed. The manifest
    alone says where to go on.
    """

    def __init__(self, files: Files, sessions: sessionmaker[Session], owner: str, rules: FlushRules) -> None:
        self._files = files
        self._sessions = sessions
        self._owner = owner
        self._rules = rules
        self._claims: dict[TopicPartition, Claim] = {}
        self._gathered: dict[TopicPartition, Rows] = {}
        self._oldest_ms: int | None = None
        self._newest_ms = 0

    def claim(
        self, partitions: Sequence[TopicPartition], topic_ids: Mapping[str, str] | None = None
    ) -> dict[TopicPartition, int]:
        """Take partitions over and remove what a crash left in their folders; returns where to go on.

        Returns
        -------
        dict
            Next offset of partitions that were archived before.
        """
        with self._sessions.begin() as session:
            claims = manifest.claim(session, partitions, self._owner, topic_ids)
            known = {key: {*manifest.paths(session, *key), *manifest.retired(session, *key)} for key in claims}
        for key, paths in known.items():
            swept = self._files.sweep(*key, paths, claims[key].epoch)
            if swept:
                log.info("removed %d unfinished archive files of %s-%d", swept, *key)
        self._claims.update(claims)
        for key in claims:
            self._gathered.pop(key, None)
        return {key: held.next_offset for key, held in claims.items() if held.next_offset is not None}

    @property
    def claims(self) -> Mapping[TopicPartition, Claim]:
        """What this worker holds."""
        return self._claims

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions and what was gathered of them; the next owner reads it again."""
        for key in partitions:
            self._claims.pop(key, None)
            self._gathered.pop(key, None)

    def add(self, records: Iterable[Record], now_ms: int) -> None:
        """Gather records; those behind the manifest's position (read twice) are dropped."""
        for key, group in groupby(records, key=lambda r: (r.topic, r.partition)):
            held = self._claims.get(key)
            if held is None:
                continue
            start = held.next_offset or 0
            rows = self._gathered.setdefault(key, Rows(*key))
            rows.add(record for record in group if record.offset >= start)
            self._oldest_ms = now_ms if self._oldest_ms is None else self._oldest_ms
            self._newest_ms = now_ms

    def due(self, now_ms: int) -> bool:
        """Whether it is time to write."""
        if self._oldest_ms is None:
            return False
        return (
            sum(len(rows.rows) for rows in self._gathered.values()) >= self._rules.max_rows
            or sum(rows.size_bytes for rows in self._gathered.values()) >= self._rules.max_bytes
            or now_ms - self._oldest_ms >= self._rules.max_age_ms
            or now_ms - self._newest_ms >= self._rules.idle_ms
        )

    @property
    def empty(self) -> bool:
        """Nothing is gathered."""
        return self._oldest_ms is None

    def behind(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Whether the manifest stands behind `positions` (also where only transaction markers lie between)."""
        return any(
            position > (self._claims[key].next_offset or 0)
            for key, position in positions.items()
            if key in self._claims
        )

    def flush(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Write, publish and record everything gathered; returns the offsets to commit.

        Parameters
        ----------
        positions : mapping
            The consumer's next offset of each partition: everything before it was handed to `add`.

        Raises
        ------
        FencedError
            Another worker took a partition over: end without committing.
        """
        moves = self._moves(positions)
        gathered = [rows for key, rows in sorted(self._gathered.items()) if rows.rows and key in moves]
        drafts = [self._write(rows) for rows in gathered]
        failpoint("archive-written")
        self._files.publish(drafts)
        failpoint("archive-published")
        if moves:
            files = [_entry(rows, draft) for rows, draft in zip(gathered, drafts, strict=True)]
            with self._sessions.begin() as session:
                manifest.record(session, self._claims, files, moves)
        failpoint("archive-recorded")
        for key, position in moves.items():
            self._claims[key] = replace(self._claims[key], next_offset=position)
        self._gathered.clear()
        self._oldest_ms = None
        return moves

    def _moves(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return {
            key: position
            for key, position in positions.items()
            if key in self._claims and position > (self._claims[key].next_offset or 0)
        }

    def _write(self, rows: Rows) -> Draft:
        held = self._claims[rows.topic, rows.partition]
        path = file_path(rows.topic, rows.partition, rows.first, rows.last, held.epoch)
        return self._files.write(path, parquet_bytes(rows.table()))


def _entry(rows: Rows, draft: Draft) -> NewFile:
    least, greatest = rows.times()
    return NewFile(
        topic=rows.topic,
        partition=rows.partition,
        first_offset=rows.first,
        last_offset=rows.last,
        rows=len(rows.rows),
        problems=rows.problems,
        timeless=rows.timeless,
        min_event_time_ms=least,
        max_event_time_ms=greatest,
        path=draft.path,
        size_bytes=draft.size_bytes,
        sha256=draft.sha256,
    )
