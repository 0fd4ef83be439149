"""An archive in a temporary folder with its manifest in SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from agents.archiving.files import open_files
from agents.archiving.tables import ArchiveFileRow, ArchivePositionRow, ArchiveRetiredRow
from agents.archiving.writer import ArchiveWriter, FlushRules
from agents.database.base import Base
from agents.database.engine import make_engine, session_factory
from schemas.codec import encode
from streams.kafka.records import Record


@dataclass
class Log:
    """A stand-in for topics: gives records their offsets."""

    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    def record(self, topic: str, value: object, *, partition: int = 0, key: bytes | None = None) -> Record:
        offset = self.ends.get((topic, partition), 0)
        self.ends[topic, partition] = offset + 1
        raw = value if value is None or isinstance(value, bytes) else encode(value)
        return Record(topic, partition, offset, key, raw, None, 1_700_000_000_000)


@dataclass
class Archive:
    """An archive and its log."""

    folder: Path
    sessions: sessionmaker[Session]
    log: Log = field(default_factory=Log)
    store: str = ""
    """URL of an object store, instead of the folder."""

    @property
    def url(self) -> str:
        return self.store or str(self.folder)

    def writer(self, owner: str = "w", rules: FlushRules | None = None) -> ArchiveWriter:
        return ArchiveWriter(open_files(self.url), self.sessions, owner, rules or FlushRules())

    def write(self, records: Iterable[Record]) -> None:
        """Archive `records` as one flush of one worker."""
        writer = self.writer()
        listed = list(records)
        writer.claim(sorted({(r.topic, r.partition) for r in listed}))
        writer.add(listed, 0)
        writer.flush({(r.topic, r.partition): r.offset + 1 for r in listed})


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    engine = make_engine(f"sqlite:///{tmp_path / 'm.db'}")
    Base.metadata.create_all(
        engine, tables=[row.__table__ for row in (ArchiveFileRow, ArchivePositionRow, ArchiveRetiredRow)]
    )
    yield Archive(tmp_path / "archive", session_factory(engine))
    engine.dispose()
