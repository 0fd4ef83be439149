"""Merging small files into larger ones, so that a long history stays quick to read.

Readers see the old files or the new one, never both: the manifest changes in one transaction, and the old files are
removed `KEEP` later, when nobody who saw them reads any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import pyarrow as pa
from sqlalchemy.orm import Session, sessionmaker

from agents.archiving import manifest
from agents.archiving.files import Files, file_path, parquet_bytes
from agents.archiving.manifest import Claim, NewFile, TopicPartition
from agents.archiving.tables import ArchiveFileRow
from schemas.errors import ConflictError
from streams.kafka.failpoints import failpoint

FAN_IN = 16
LARGEST = 200_000
"""Rows of a merged file at most: it is held in memory."""
KEEP = timedelta(hours=1)

log = logging.getLogger("driftline.archiving")


class Sized(Protocol):
    """What `choose` needs of a file."""

    @property
    def rows(self) -> int: ...


S = TypeVar("S", bound=Sized)


def choose(files: Sequence[S], largest: int, fan_in: int = FAN_IN) -> list[S]:
    """Neighbours to merge, of a partition's files in offset order: the first `fan_in` that are worth it, or nothing.

    Parameters
    ----------
    largest : int
        Rows of a merged file at most.

    Notes
    -----
    It is worth it when the largest of them is at most half of all: then a row is rewritten only when its file at least
    doubles.
    """
    for start in range(len(files) - fan_in + 1):
        run = files[start : start + fan_in]
        total = sum(file.rows for file in run)
        if total <= largest and 2 * max(file.rows for file in run) <= total:
            return list(run)
    return []


def choose_all(files: Sequence[S], largest: int) -> list[S]:
    """As `choose`, from two files on, and with as many of the neighbours after them as fit."""
    parts = choose(files, largest, 2)
    if not parts:
        return []
    total = sum(file.rows for file in parts)
    start = next(at for at, file in enumerate(files) if file is parts[0])
    for file in files[start + len(parts) :]:
        total += file.rows
        if total > largest:
            break
        parts.append(file)
    return parts


class Compactor:
    """Merges and clears away for one worker, a little at a time.

    Parameters
    ----------
    files : Files
    sessions : sessionmaker
        Writing sessions.
    readers : sessionmaker
        Read-only ones.
    largest : int
        Rows of a merged file at most.
    """

    def __init__(
        self,
        files: Files,
        sessions: sessionmaker[Session],
        readers: sessionmaker[Session],
        *,
        largest: int = LARGEST,
    ) -> None:
        self.files = files
        self.sessions = sessions
        self.readers = readers
        self.largest = largest
        self._fresh: dict[TopicPartition, int] = {}

    def claimed(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions came: look at each of them once."""
        self._fresh = dict.fromkeys(partitions, FAN_IN)

    def written(self, partitions: Iterable[TopicPartition]) -> None:
        """Files were added."""
        for partition in partitions:
            self._fresh[partition] = self._fresh.get(partition, 0) + 1

    def work(self, claims: Mapping[TopicPartition, Claim]) -> bool:
        """Merge at most once, in a partition that enough files were added to; whether there was anything to do."""
        for partition, count in self._fresh.items():
            if count >= FAN_IN and partition in claims:
                if not self.compact(partition, claims[partition]):
                    self._fresh[partition] = 0
                return True
        return False

    def compact(self, partition: TopicPartition, held: Claim) -> bool:
        """Merge once in a partition that this worker holds; whether there was anything to merge.

        Raises
        ------
        FencedError
            Another worker took the partition over.
        """
        with self.readers() as session:
            parts = choose(manifest.files_of(session, *partition), self.largest)
        return self.merge(partition, held, parts) if parts else False

    def merge(self, partition: TopicPartition, held: Claim, parts: Sequence[ArchiveFileRow], token: str = "") -> bool:
        """Let one file take the place of `parts`; whether it did (False: somebody else was faster).

        Parameters
        ----------
        token : str
            Hexadecimal: keeps the file apart from what the partition's owner may make of the same rows.

        Raises
        ------
        FencedError
            Another worker took the partition over.
        """
        table = pa.concat_tables([self.files.read(part.path) for part in parts], promote_options="default")
        first, last = parts[0].first_offset, parts[-1].last_offset
        path = file_path(*partition, first, last, held.epoch, token=token)
        draft = self.files.write(path, parquet_bytes(table))
        self.files.publish([draft])
        failpoint("archive-merged")
        merged = _entry(parts, draft.path, draft.size_bytes, draft.sha256)
        try:
            with self.sessions.begin() as session:
                manifest.merge(session, held, parts, merged)
        except ConflictError:
            # Nothing names the file, unless its twin of the same name was faster.
            with self.readers() as session:
                if draft.path not in manifest.paths(session, *partition):
                    self.files.remove(draft.path)
            return False
        return True

    def clear(self, partition: TopicPartition) -> int:
        """Remove what was merged `KEEP` ago; returns how many files."""
        with self.readers() as session:
            paths = manifest.retired(session, *partition, KEEP)
        if not paths:
            return 0
        for path in paths:
            self.files.remove(path)
        with self.sessions.begin() as session:
            manifest.forget(session, paths)
        return len(paths)


def _entry(parts: Sequence[ArchiveFileRow], path: str, size_bytes: int, sha256: str) -> NewFile:
    least = [part.min_event_time_ms for part in parts if part.min_event_time_ms is not None]
    greatest = [part.max_event_time_ms for part in parts if part.max_event_time_ms is not None]
    return NewFile(
        topic=parts[0].topic,
        partition=parts[0].partition,
        first_offset=parts[0].first_offset,
        last_offset=parts[-1].last_offset,
        rows=sum(part.rows for part in parts),
        problems=sum(part.problems for part in parts),
        timeless=sum(part.timeless for part in parts),
        min_event_time_ms=min(least, default=None),
        max_event_time_ms=max(greatest, default=None),
        path=path,
        size_bytes=size_bytes,
        sha256=sha256,
    )
