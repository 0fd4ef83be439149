"""The protocol: what a crash at any step leaves behind, and who may write."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from agents.archiving import manifest
from agents.archiving import writer as writer_module
from agents.archiving.tables import ArchiveFileRow, ArchivePositionRow, ArchiveRetiredRow
from agents.archiving.writer import ArchiveWriter, FlushRules
from schemas.errors import FencedError, StateError
from schemas.events import GroundTruth
from schemas.topics import GROUND_TRUTH
from streams.kafka.records import Record
from tests.unit.agents.archiving.conftest import Archive

TP = (GROUND_TRUTH, 0)


def labels(archive: Archive, count: int) -> list[Record]:
    start = archive.log.ends.get(TP, 0)
    return [
        archive.log.record(GROUND_TRUTH, GroundTruth(prediction_id=f"p{n}", event_time_ms=n, label=1))
        for n in range(start, start + count)
    ]


def archived(archive: Archive) -> list[int]:
    """Offsets that a reader sees, in file order."""
    with archive.sessions() as session:
        paths = manifest.paths(session, GROUND_TRUTH)
    return [offset for path in paths for offset in pq.read_table(archive.folder / path)["offset"].to_pylist()]


def test_files_are_named_by_topic_partition_and_offsets(archive: Archive) -> None:
    archive.write(labels(archive, 3))
    with archive.sessions() as session:
        (row,) = session.scalars(select(ArchiveFileRow)).all()
    assert row.path == f"ground-truth/0/{0:020d}-{2:020d}.e1.parquet"
    assert (row.rows, row.problems, row.min_event_time_ms, row.max_event_time_ms) == (3, 0, 0, 2)
    assert (archive.folder / row.path).stat().st_size == row.size_bytes
    assert not list(archive.folder.rglob("*.tmp"))


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    at = {"step": ""}

    def passed(step: str) -> None:
        if step == at["step"]:
            raise Crash

    monkeypatch.setattr(writer_module, "failpoint", passed)
    return at


@pytest.mark.parametrize("step", ["archive-written", "archive-published", "archive-recorded"])
def test_a_crash_at_any_step_loses_and_repeats_nothing(archive: Archive, crash_at: dict[str, str], step: str) -> None:
    log = labels(archive, 10)
    first = archive.writer("first")
    first.claim([TP])
    first.add(log[:4], 0)
    first.flush({TP: 4})
    first.add(log[4:7], 0)
    crash_at["step"] = step
    with pytest.raises(Crash):
        first.flush({TP: 7})
    crash_at["step"] = ""
    second = archive.writer("second")
    start = second.claim([TP])[TP]
    assert start == (7 if step == "archive-recorded" else 4)
    second.add(log[4:], 0)  # the committed offset may be older than the manifest
    second.flush({TP: 10})
    assert archived(archive) == list(range(10))
    with archive.sessions() as session:
        known = set(manifest.paths(session, GROUND_TRUTH))
    assert {str(p.relative_to(archive.folder)) for p in archive.folder.rglob("*") if p.is_file()} == known


def test_a_replaced_worker_is_fenced_and_leaves_no_trace(archive: Archive) -> None:
    log = labels(archive, 4)
    old, new = archive.writer("old"), archive.writer("new")
    old.claim([TP])
    old.add(log[:2], 0)
    new.claim([TP])
    new.add(log, 0)
    new.flush({TP: 4})
    with pytest.raises(FencedError, match="another worker"):
        old.flush({TP: 2})
    assert archived(archive) == [0, 1, 2, 3]


def test_the_manifest_refuses_an_overlap(archive: Archive) -> None:
    archive.write(labels(archive, 4))
    with archive.sessions.begin() as session:
        claims = manifest.claim(session, [TP], "w")
        file = manifest.NewFile(GROUND_TRUTH, 0, 3, 4, 2, 0, 0, 1, 2, "x", 1, "h")
        with pytest.raises(FencedError, match="do not follow"):
            manifest.record(session, claims, [file], {TP: 5})


def test_a_topic_made_again_is_refused(archive: Archive) -> None:
    archive.writer().claim([TP], {GROUND_TRUTH: "one"})
    archive.writer().claim([TP], {GROUND_TRUTH: "one"})
    with pytest.raises(StateError, match="made again"):
        archive.writer().claim([TP], {GROUND_TRUTH: "two"})


def test_positions_move_over_markers_without_a_file(archive: Archive) -> None:
    writer = archive.writer()
    writer.claim([TP])
    writer.add(labels(archive, 2), 0)
    assert writer.flush({TP: 3}) == {TP: 3}
    assert not writer.behind({TP: 3})
    assert writer.behind({TP: 4})
    assert writer.flush({TP: 4}) == {TP: 4}
    assert writer.flush({TP: 4}) == {}
    assert archive.writer().claim([TP]) == {TP: 4}
    assert archived(archive) == [0, 1]


def test_partitions_given_away_are_not_written(archive: Archive) -> None:
    writer = archive.writer()
    writer.claim([TP])
    writer.add(labels(archive, 2), 0)
    writer.release([TP])
    assert writer.flush({TP: 2}) == {}
    assert archived(archive) == []


@pytest.mark.parametrize(
    ("rules", "now_ms", "due"),
    [
        (FlushRules(max_rows=3), 0, True),
        (FlushRules(max_rows=4, max_age_ms=100, idle_ms=50), 49, False),
        (FlushRules(max_rows=4, max_age_ms=100, idle_ms=50), 50, True),
        (FlushRules(max_rows=4, max_age_ms=100, idle_ms=500), 100, True),
        (FlushRules(max_bytes=100), 0, True),
    ],
)
def test_when_files_are_written(archive: Archive, rules: FlushRules, now_ms: int, due: bool) -> None:
    writer = archive.writer(rules=rules)
    writer.claim([TP])
    assert not writer.due(now_ms)
    writer.add(labels(archive, 3), 0)
    assert writer.due(now_ms) is due


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["read", "flush", "crash", "rewind"])), max_size=12))
def test_any_sequence_of_workers_archives_every_record_once(
    tmp_path_factory: Any, steps: list[tuple[int, str]]
) -> None:
    from agents.database.base import Base
    from agents.database.engine import make_engine, session_factory

    folder = tmp_path_factory.mktemp("archive")
    engine = make_engine(f"sqlite:///{folder / 'm.db'}")
    tables = [row.__table__ for row in (ArchiveFileRow, ArchivePositionRow, ArchiveRetiredRow)]
    Base.metadata.create_all(engine, tables=tables)
    archive = Archive(folder / "archive", session_factory(engine))
    log: list[Record] = []
    writer: ArchiveWriter = archive.writer()
    position = writer.claim([TP]).get(TP, 0)
    for count, step in steps:
        log += labels(archive, count)
        writer.add(log[position:], 0)
        position = len(log)
        if step == "flush":
            writer.flush({TP: position})
        elif step in {"crash", "rewind"}:
            writer = archive.writer()
            position = writer.claim([TP]).get(TP, 0)
            if step == "rewind":  # the group's committed offset was older than the manifest
                position = max(0, position - 3)
    writer.add(log[position:], 0)
    writer.flush({TP: len(log)})
    assert archived(archive) == list(range(len(log)))
    engine.dispose()
