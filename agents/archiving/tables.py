"""Tables of the archive: its manifest and how far each topic partition is archived."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, UtcDateTime


class ArchiveFileRow(Base):
    """One published file. Readers see only what stands here.

    `timeless`: rows without event time (tombstones), which no time filter may leave out. `problems`: records that could
    not be decoded and were kept as they came.
    """

    __tablename__ = "archive_files"
    __table_args__ = (
        UniqueConstraint("topic", "partition", "first_offset"),
        UniqueConstraint("path"),
        CheckConstraint("first_offset <= last_offset", name="range"),
        Index("ix_archive_files_times", "topic", "max_event_time_ms", "min_event_time_ms"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    topic: Mapped[str] = mapped_column(String(249))
    partition: Mapped[int] = mapped_column(Integer)
    first_offset: Mapped[int] = mapped_column(BigInteger)
    last_offset: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(Integer)
    problems: Mapped[int] = mapped_column(Integer)
    timeless: Mapped[int] = mapped_column(Integer)
    min_event_time_ms: Mapped[int | None] = mapped_column(BigInteger)
    max_event_time_ms: Mapped[int | None] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(String(500))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    epoch: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ArchivePositionRow(Base):
    """How far a topic partition is archived, and which worker may go on.

    `epoch` grows with every assignment: a worker that was replaced carries an older one, and its rows are refused.
    """

    __tablename__ = "archive_positions"

    topic: Mapped[str] = mapped_column(String(249), primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_offset: Mapped[int | None] = mapped_column(BigInteger)
    epoch: Mapped[int] = mapped_column(Integer)
    topic_id: Mapped[str] = mapped_column(String(64), default="")
    owner: Mapped[str] = mapped_column(String(200))


class ArchiveRetiredRow(Base):
    """A file whose rows stand in a larger one now. It is kept for a while: somebody may be reading it."""

    __tablename__ = "archive_retired"

    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    topic: Mapped[str] = mapped_column(String(249))
    partition: Mapped[int] = mapped_column(Integer)
    retired_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class ArchiveExpiredRow(Base):
    """A tombstone: a file whose time was up, of what, and the epoch of the audit row that says who let it go."""

    __tablename__ = "archive_expired"

    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    topic: Mapped[str] = mapped_column(String(249), index=True)
    partition: Mapped[int] = mapped_column(Integer)
    first_offset: Mapped[int] = mapped_column(BigInteger)
    last_offset: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(Integer)
    timeless: Mapped[int] = mapped_column(Integer)
    min_event_time_ms: Mapped[int | None] = mapped_column(BigInteger)
    max_event_time_ms: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    expired_at: Mapped[datetime] = mapped_column(UtcDateTime)
    epoch: Mapped[int] = mapped_column(BigInteger)
