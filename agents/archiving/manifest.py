"""The manifest: which files exist, how far each partition is archived, and who may go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from agents.archiving.tables import ArchiveFileRow, ArchivePositionRow, ArchiveRetiredRow
from schemas.errors import ConflictError, FencedError, StateError

TopicPartition = tuple[str, int]


@dataclass(frozen=True)
class Claim:
    """The right to archive one partition. `next_offset` None: nothing is archived yet."""

    epoch: int
    next_offset: int | None


@dataclass(frozen=True)
class NewFile:
    """A published file on its way into the manifest."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    rows: int
    problems: int
    timeless: int
    min_event_time_ms: int | None
    max_event_time_ms: int | None
    path: str
    size_bytes: int
    sha256: str


def claim(
    session: Session, partitions: Iterable[TopicPartition], owner: str, topic_ids: Mapping[str, str] | None = None
) -> dict[TopicPartition, Claim]:
    """Take over partitions: their epoch grows, so whoever held them before is fenced.

    Parameters
    ----------
    topic_ids : mapping, optional
        The broker's id of each topic, compared with the one that was archived.

    Raises
    ------
    StateError
        The topic is another one than the archive holds (deleted and made again).
    """
    claims: dict[TopicPartition, Claim] = {}
    for topic, partition in sorted(partitions):
        row = session.get(ArchivePositionRow, (topic, partition), with_for_update=True)
        topic_id = (topic_ids or {}).get(topic, "")
        if row is None:
            row = ArchivePositionRow(
                topic=topic, partition=partition, next_offset=None, epoch=0, topic_id=topic_id, owner=owner
            )
            session.add(row)
        elif topic_id and row.topic_id and row.topic_id != topic_id:
            raise StateError(
                f"the topic {topic} was made again: its id is {topic_id}, the archive holds {row.topic_id}",
                where=f"archive of {topic}-{partition}",
                remedy="start with a new database and archive folder, or bring the old topic back",
            )
        row.epoch += 1
        row.owner = owner
        row.topic_id = row.topic_id or topic_id
        claims[topic, partition] = Claim(row.epoch, row.next_offset)
    session.flush()
    return claims


def record(
    session: Session,
    claims: Mapping[TopicPartition, Claim],
    files: Iterable[NewFile],
    positions: Mapping[TopicPartition, int],
) -> None:
    """Enter published files and move the positions, all or nothing.

    Parameters
    ----------
    claims : mapping
        What this worker holds; `next_offset` as it was after its last record.
    positions : mapping
        Next offset of every partition to move, past the last row of its file.

    Raises
    ------
    FencedError
        Another worker took the partition over, or the range is archived already. Nothing may be committed.
    """
    now = datetime.now(UTC)
    for (topic, partition), position in positions.items():
        held = claims[topic, partition]
        moved = session.execute(
            update(ArchivePositionRow)
            .where(
                ArchivePositionRow.topic == topic,
                ArchivePositionRow.partition == partition,
                ArchivePositionRow.epoch == held.epoch,
                ArchivePositionRow.next_offset.is_(None)
                if held.next_offset is None
                else ArchivePositionRow.next_offset == held.next_offset,
            )
            .values(next_offset=position)
            .execution_options(synchronize_session=False)
        )
        if getattr(moved, "rowcount", 0) != 1:
            raise FencedError(
                f"another worker archives {topic}-{partition} now",
                where=f"epoch {held.epoch}, offset {held.next_offset}",
                remedy="nothing to do: this worker ends and starts again from the manifest",
            )
    for file in files:
        held = claims[file.topic, file.partition]
        if file.first_offset < (held.next_offset or 0) or file.last_offset >= positions[file.topic, file.partition]:
            raise FencedError(
                f"offsets {file.first_offset}–{file.last_offset} do not follow {held.next_offset}",
                where=f"archive of {file.topic}-{file.partition}",
            )
        session.add(ArchiveFileRow(**file.__dict__, epoch=held.epoch, created_at=now))
    session.flush()


def merge(session: Session, held: Claim, parts: Sequence[ArchiveFileRow], file: NewFile) -> None:
    """Let one published file take the place of consecutive ones, which are retired.

    Raises
    ------
    FencedError
        Another worker took the partition over.
    ConflictError
        Somebody else merged or expired one of the files.
    """
    topic, partition = file.topic, file.partition
    kept = session.execute(
        update(ArchivePositionRow)
        .where(
            ArchivePositionRow.topic == topic,
            ArchivePositionRow.partition == partition,
            ArchivePositionRow.epoch == held.epoch,
        )
        .values(epoch=held.epoch)
        .execution_options(synchronize_session=False)
    )
    gone = session.execute(
        delete(ArchiveFileRow)
        .where(ArchiveFileRow.id.in_([part.id for part in parts]))
        .execution_options(synchronize_session=False)
    )
    if getattr(kept, "rowcount", 0) != 1:
        raise FencedError(f"another worker archives {topic}-{partition} now", where=f"epoch {held.epoch}")
    if getattr(gone, "rowcount", 0) != len(parts):
        raise ConflictError("the files were merged or expired meanwhile", where=f"archive of {topic}-{partition}")
    now = datetime.now(UTC)
    # Retention counts from when rows arrived: merging makes nothing younger.
    arrived = max(part.created_at for part in parts)
    session.add(ArchiveFileRow(**file.__dict__, epoch=held.epoch, created_at=arrived))
    session.add_all(
        ArchiveRetiredRow(path=part.path, topic=topic, partition=partition, retired_at=now) for part in parts
    )
    session.flush()


def files_of(session: Session, topic: str, partition: int) -> list[ArchiveFileRow]:
    """Files of a partition in offset order."""
    query = select(ArchiveFileRow).where(ArchiveFileRow.topic == topic, ArchiveFileRow.partition == partition)
    return list(session.scalars(query.order_by(ArchiveFileRow.first_offset)))


def retired(session: Session, topic: str, partition: int, age: timedelta = timedelta(0)) -> list[str]:
    """Files of a partition that were merged at least `age` ago and are still there."""
    query = select(ArchiveRetiredRow.path).where(
        ArchiveRetiredRow.topic == topic,
        ArchiveRetiredRow.partition == partition,
        ArchiveRetiredRow.retired_at <= datetime.now(UTC) - age,
    )
    return list(session.scalars(query))


def forget(session: Session, paths: Sequence[str]) -> None:
    """Retired files were removed."""
    session.execute(delete(ArchiveRetiredRow).where(ArchiveRetiredRow.path.in_(paths)))


def held(session: Session) -> dict[TopicPartition, Claim]:
    """The right that the present owner of each partition has. Whoever uses it beside the owner fences nobody."""
    rows = session.execute(
        select(
            *(ArchivePositionRow.topic, ArchivePositionRow.partition),
            *(ArchivePositionRow.epoch, ArchivePositionRow.next_offset),
        )
    )
    return {(topic, partition): Claim(epoch, offset) for topic, partition, epoch, offset in rows}


def next_offsets(session: Session) -> dict[TopicPartition, int]:
    """How far each partition is archived."""
    rows = session.execute(
        select(ArchivePositionRow.topic, ArchivePositionRow.partition, ArchivePositionRow.next_offset)
    )
    return {(topic, partition): offset for topic, partition, offset in rows if offset is not None}


def paths(session: Session, topic: str, partition: int | None = None) -> list[str]:
    """Files of a topic (of one partition), in offset order."""
    query = select(ArchiveFileRow.path).where(ArchiveFileRow.topic == topic)
    if partition is not None:
        query = query.where(ArchiveFileRow.partition == partition)
    return list(session.scalars(query.order_by(ArchiveFileRow.partition, ArchiveFileRow.first_offset)))
