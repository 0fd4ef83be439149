"""Merging: the same rows in fewer files, whatever happens in between."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from agents.archiving import compaction, dataset, manifest
from agents.archiving.compaction import FAN_IN, KEEP, Compactor, choose, choose_all
from agents.archiving.files import open_files
from agents.archiving.tables import ArchiveRetiredRow
from schemas.errors import FencedError
from schemas.events import GroundTruth
from schemas.topics import GROUND_TRUTH
from tests.unit.agents.archiving.conftest import Archive

TP = (GROUND_TRUTH, 0)


@dataclass
class Size:
    rows: int


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([1] * (FAN_IN - 1), None),
        ([1] * FAN_IN, 0),
        ([100, *[1] * FAN_IN], 1),
        ([100, *[1] * (FAN_IN - 1)], None),
        ([16] * FAN_IN, 0),
        ([*[900] * FAN_IN, *[1] * FAN_IN], 5),
    ],
)
def test_what_is_worth_merging(sizes: list[int], chosen: int | None) -> None:
    files = [Size(rows) for rows in sizes]
    expected = [] if chosen is None else files[chosen : chosen + FAN_IN]
    assert choose(files, 10_000) == expected


@pytest.mark.parametrize(
    ("sizes", "first", "last"),
    [
        ([10], 0, 0),
        ([10, 10, 10], 0, 3),
        ([100, 10, 10, 40], 1, 4),
        ([10, 10, 70, 20], 0, 3),  # the fourth would not fit
        ([10, 10, 90, 10], 0, 2),  # nor is one left out in the middle
        ([60, 60], 0, 0),
    ],
)
def test_all_neighbours_that_fit(sizes: list[int], first: int, last: int) -> None:
    files = [Size(rows) for rows in sizes]
    assert choose_all(files, 100) == files[first:last]


def test_a_row_is_rewritten_few_times_and_few_files_are_left() -> None:
    files: list[Size] = []
    rewritten = 0
    for _ in range(5_000):
        files.append(Size(30))
        while run := choose(files, 10**9):
            start = files.index(run[0])
            total = sum(file.rows for file in run)
            rewritten += total
            files[start : start + FAN_IN] = [Size(total)]
    assert len(files) < 20
    assert rewritten < 8 * 5_000 * 30


def fill(archive: Archive, files: int) -> None:
    writer = archive.writer()
    position = writer.claim([TP]).get(TP, 0)
    for _ in range(files):
        records = [
            archive.log.record(GROUND_TRUTH, GroundTruth(prediction_id=f"p{n}", event_time_ms=n, label=n))
            for n in range(position, position + 3)
        ]
        if position % 2:
            records[0] = records[0]._replace(value=b"{poison")
        position += 3
        writer.add(records, 0)
        writer.flush({TP: position})


def compactor(archive: Archive) -> Compactor:
    return Compactor(open_files(archive.url), archive.sessions, archive.sessions)


def claim(archive: Archive) -> manifest.Claim:
    with archive.sessions.begin() as session:
        return manifest.claim(session, [TP], "w")[TP]


def rows(archive: Archive) -> list[tuple[int, str | None, str | None]]:
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        query = 'SELECT "offset", label, problem FROM ground_truth ORDER BY "offset"'
        return list(connection.execute(query).fetchall())


def test_the_same_rows_in_one_file_and_the_old_ones_go_later(archive: Archive) -> None:
    fill(archive, FAN_IN)
    before = rows(archive)
    held = claim(archive)
    worker = compactor(archive)
    assert worker.compact(TP, held)
    assert not worker.compact(TP, held)
    assert rows(archive) == before
    with archive.sessions() as session:
        (file,) = manifest.files_of(session, *TP)
    assert (file.first_offset, file.last_offset, file.rows) == (0, 3 * FAN_IN - 1, 3 * FAN_IN)
    assert file.problems == sum(problem is not None for _, _, problem in before) > 0
    assert (file.min_event_time_ms, file.max_event_time_ms) == (0, 3 * FAN_IN - 1)
    assert len(list(archive.folder.rglob("*.parquet"))) == FAN_IN + 1
    assert archive.writer().claim([TP]) == {TP: 3 * FAN_IN}  # keeps what readers may still read
    assert len(list(archive.folder.rglob("*.parquet"))) == FAN_IN + 1
    assert worker.clear(TP) == 0
    with archive.sessions.begin() as session:
        session.execute(update(ArchiveRetiredRow).values(retired_at=datetime.now(UTC) - KEEP - timedelta(seconds=1)))
    assert worker.clear(TP) == FAN_IN
    assert len(list(archive.folder.rglob("*.parquet"))) == 1
    assert rows(archive) == before


def test_a_replaced_worker_merges_nothing(archive: Archive) -> None:
    fill(archive, FAN_IN)
    before = rows(archive)
    old = claim(archive)
    claim(archive)
    with pytest.raises(FencedError):
        compactor(archive).compact(TP, old)
    assert rows(archive) == before


def test_a_crash_before_the_manifest_changes_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    class CrashError(BaseException):
        pass

    def crash(step: str) -> None:
        raise CrashError

    fill(archive, FAN_IN)
    before = rows(archive)
    monkeypatch.setattr(compaction, "failpoint", crash)
    with pytest.raises(CrashError):
        compactor(archive).compact(TP, claim(archive))
    assert rows(archive) == before
    archive.writer().claim([TP])
    assert len(list(archive.folder.rglob("*.parquet"))) == FAN_IN


def test_partitions_are_looked_at_when_enough_files_were_added(archive: Archive) -> None:
    fill(archive, FAN_IN - 1)
    held = claim(archive)
    worker = compactor(archive)
    worker.claimed([TP])
    assert worker.work({TP: held})  # looked, found nothing
    assert not worker.work({TP: held})
    fill(archive, 1)
    held = claim(archive)
    worker.written([TP])
    assert not worker.work({TP: held})
    for _ in range(FAN_IN):
        worker.written([TP])
    assert worker.work({TP: held})
    with archive.sessions() as session:
        assert len(manifest.paths(session, *TP)) == 1
