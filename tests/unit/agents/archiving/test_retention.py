"""Retention: what is old goes, what a version was made from stays, and what went is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from agents.access.logic import local_principal
from agents.archiving import compaction, dataset, manifest
from agents.archiving.checking import verify
from agents.archiving.compaction import FAN_IN, Compactor
from agents.archiving.files import open_files
from agents.archiving.retention import Need, expire, lost, plan
from agents.archiving.tables import ArchiveExpiredRow, ArchiveFileRow, ArchiveRetiredRow
from agents.cli import app
from agents.config import CONFIG_FILE, Retention, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry.audit import verify_audit
from agents.registry.tables import AuditRow, VersionRow
from schemas.codec import iso, utc
from schemas.errors import ConfigurationError, ConflictError, SpecificationError
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from tests.support.registries import RegistryWorld
from tests.unit.agents.archiving.conftest import Archive
from tests.unit.agents.archiving.test_compaction import TP, claim, fill, rows
from tests.unit.agents.archiving.test_dataset import label, predicted

DAY = 86_400_000
NOW = 1_700_000_000_000
ADA = local_principal("ada")
KEEP = Retention({PREDICTIONS: 100 * DAY, GROUND_TRUTH: 100 * DAY})


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    engine = make_engine(f"sqlite:///{tmp_path / 'home' / 'registry.db'}")
    upgrade(engine)
    yield Archive(tmp_path / "home" / "archive", session_factory(engine))
    engine.dispose()


def days(archive: Archive, *ages: int) -> None:
    """One file of predictions and one of labels for each age in days."""
    for age in ages:
        at = NOW - age * DAY
        archive.write([predicted(archive, f"p{age}", at), label(archive, f"p{age}", at + 1000)])


def ages(archive: Archive, topic: str = PREDICTIONS) -> list[int]:
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        view = topic.replace("-", "_")
        found = connection.execute(f"SELECT event_time_ms FROM {view} ORDER BY 1 DESC").fetchall()
    return [round((NOW - ms) / DAY) for (ms,) in found]


def let_go(archive: Archive, retention: Retention = KEEP, **more: Any) -> list[str]:
    with archive.sessions() as session:
        found = plan(session, retention, NOW, **more)
    if found.due:
        with archive.sessions.begin() as session:
            expire(session, found.due, ADA, reason="retention")
    return found.by


def version(archive: Archive, tmp_path: Path, first: int, last: int, *, stage: str = "promoted") -> None:
    """A version that was trained on rows of these ages (days)."""
    world = RegistryWorld(str(archive.sessions.kw["bind"].url), tmp_path / "world")
    world.model()
    with archive.sessions.begin() as session:
        number = world.version(session)
        made_from = {
            "rows": 3,
            "first_event": iso(utc(NOW - first * DAY)),
            "archive": {"from": "1970-01-01T00:00:00.000Z", "as_of": iso(utc(NOW - last * DAY))},
        }
        session.execute(update(VersionRow).where(VersionRow.version == number).values(dataset=made_from, stage=stage))


# ------------------------------------------------------------------------------------------------------- letting go


def test_what_is_old_goes_with_a_tombstone_and_an_audit_row(archive: Archive) -> None:
    days(archive, 300, 200, 99, 0)
    let_go(archive)
    assert ages(archive) == ages(archive, GROUND_TRUTH) == [0, 99]
    with archive.sessions() as session:
        stones = list(session.scalars(select(ArchiveExpiredRow)))
        (row,) = session.scalars(select(AuditRow))
        assert verify_audit(session).problem is None
    event = json.loads(row.event)
    assert (row.action, event["files"], event["rows"]) == ("ArchiveExpired", 4, {PREDICTIONS: 2, GROUND_TRUTH: 2})
    assert {stone.epoch for stone in stones} == {row.epoch}
    assert all((archive.folder / stone.path).exists() for stone in stones), "somebody may still be reading"
    let_go(archive)
    with archive.sessions() as session:
        assert len(list(session.scalars(select(AuditRow)))) == 1, "nothing more to tell"


def test_the_bytes_go_later(archive: Archive) -> None:
    days(archive, 300, 0)
    let_go(archive)
    worker = Compactor(open_files(archive.url), archive.sessions, archive.sessions)
    assert worker.clear((PREDICTIONS, 0)) == 0
    with archive.sessions.begin() as session:
        old = datetime.now(UTC) - compaction.KEEP - timedelta(seconds=1)
        session.execute(update(ArchiveRetiredRow).values(retired_at=old))
    assert worker.clear((PREDICTIONS, 0)) == 1
    assert len(list((archive.folder / PREDICTIONS).rglob("*.parquet"))) == 1


def test_replayed_history_is_counted_from_where_it_has_come(archive: Archive) -> None:
    days(archive, 3000, 2950)
    let_go(archive)
    assert ages(archive) == [2950, 3000]
    days(archive, 2890)
    let_go(archive)
    assert ages(archive) == [2890, 2950]


def test_a_record_from_the_future_moves_nothing_and_does_not_stay_for_ever(archive: Archive) -> None:
    archive.write([predicted(archive, "past", NOW - 150 * DAY), predicted(archive, "future", NOW + 9999 * DAY)])
    days(archive, 140)
    let_go(archive)
    assert len(ages(archive)) == 3
    with archive.sessions.begin() as session:
        session.execute(update(ArchiveFileRow).values(created_at=utc(NOW - 130 * DAY)))
    days(archive, 0)
    let_go(archive)
    assert ages(archive) == [0]


def test_withdrawals_stay_as_long_as_they_are_young(archive: Archive) -> None:
    days(archive, 300, 0)
    archive.write([archive.log.record(GROUND_TRUTH, None, key=b"p300")])
    let_go(archive, Retention({PREDICTIONS: 100 * DAY, GROUND_TRUTH: 100 * DAY}))
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        kept = connection.execute("SELECT prediction_id, withdrawn FROM ground_truth ORDER BY 1").fetchall()
    assert kept == [("p0", False), ("p300", True)]


# ------------------------------------------------------------------------------------------------------- held back


@pytest.mark.parametrize(
    ("stage", "hold", "held"),
    [
        ("promoted", "versions", True),
        ("superseded", "versions", True),
        ("rejected", "versions", False),
        ("archived", "versions", False),
        ("superseded", "live", False),
        ("approval-requested", "live", True),
        ("promoted", "none", False),
    ],
)
def test_what_a_version_was_made_from_stays(
    archive: Archive, tmp_path: Path, stage: str, hold: str, held: bool
) -> None:
    days(archive, 400, 300, 200, 0)
    version(archive, tmp_path, 310, 250, stage=stage)
    who = let_go(archive, Retention(KEEP.keep_ms, hold))
    assert ages(archive) == ages(archive, GROUND_TRUTH) == ([0, 300] if held else [0])
    assert who == (["m 1"] if held else [])


def test_by_force_it_goes_and_the_version_knows_what_it_lost(archive: Archive, tmp_path: Path) -> None:
    days(archive, 400, 300, 0)
    version(archive, tmp_path, 310, 250)
    let_go(archive, force=True)
    assert ages(archive) == [0]
    with archive.sessions() as session:
        found = lost(session, Need("m", 1, NOW - 310 * DAY, NOW - 250 * DAY, 0))
        assert found is not None
        assert found[0] == 2
        assert lost(session, Need("m", 2, NOW - 200 * DAY, NOW, 0)) is None
        assert lost(session, None) is None


def test_merging_and_letting_go_do_not_disturb_each_other(archive: Archive) -> None:
    fill(archive, FAN_IN)
    with archive.sessions() as session:
        files = manifest.files_of(session, *TP)
    worker = Compactor(open_files(archive.url), archive.sessions, archive.sessions)
    held = claim(archive)
    with archive.sessions.begin() as session:
        expire(session, files[:1], ADA, reason="retention")
    assert not worker.merge(TP, held, files)
    assert len(rows(archive)) == 3 * (FAN_IN - 1)
    assert len(list(archive.folder.rglob("*.parquet"))) == FAN_IN
    with pytest.raises(ConflictError, match="changed"), archive.sessions.begin() as session:
        expire(session, files[:1], ADA, reason="retention")


def test_merging_makes_nothing_younger(archive: Archive) -> None:
    fill(archive, FAN_IN)
    with archive.sessions.begin() as session:
        session.execute(update(ArchiveFileRow).values(created_at=utc(NOW)))
    Compactor(open_files(archive.url), archive.sessions, archive.sessions).compact(TP, claim(archive))
    with archive.sessions() as session:
        (file,) = manifest.files_of(session, *TP)
    assert file.created_at == utc(NOW)


# ------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "file", "kept"),
    [
        ("", "", {}),
        ("100d", "", dict.fromkeys(("predictions", "ground-truth", "quality-metrics", "drift-metrics", "alerts"), 100)),
        ("predictions=1d, ground-truth=2d", "", {"predictions": 1, "ground-truth": 2}),
        ("", '[archive]\nretention = { alerts = "800d" }\nhold = "live"', {"alerts": 800}),
        ("predictions=2d,ground-truth=1d", "", ConfigurationError),
        ("predictions=2d", "", None),
        ("ground-truth=2d", "", ConfigurationError),
        ("requests=2d", "", ConfigurationError),
        ("long", "", SpecificationError),
        ("", '[archive]\nhold = "all"', ConfigurationError),
        ("", '[archive]\nretain = "1d"', ConfigurationError),
    ],
)
def test_how_it_is_said(tmp_path: Path, setting: str, file: str, kept: Any) -> None:
    (tmp_path / CONFIG_FILE).write_text(file)
    settings = load_settings(home=tmp_path, archive_retention=setting)
    if isinstance(kept, type):
        with pytest.raises(kept):
            _ = settings.retention
    else:
        expected = {"predictions": 2} if kept is None else kept
        assert settings.retention.keep_ms == {kind: days * DAY for kind, days in expected.items()}
        assert settings.retention.hold == ("live" if "live" in file else "versions")


# ------------------------------------------------------------------------------------------------------- verifying


@pytest.mark.parametrize(
    ("harm", "quick", "what"),
    [
        (lambda path: path.unlink(), True, "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), True, "altered"),
        (lambda path: path.write_bytes(b"X" * path.stat().st_size), True, None),
        (lambda path: path.write_bytes(b"X" * path.stat().st_size), False, "altered"),
        (lambda path: (path.parent / "other.e9.parquet").write_bytes(b"x"), False, None),
    ],
)
def test_harm_is_found(archive: Archive, harm: Any, quick: bool, what: str | None) -> None:
    days(archive, 2, 1)
    harm(sorted((archive.folder / PREDICTIONS).rglob("*.parquet"))[0])
    with archive.sessions() as session:
        found = verify(session, open_files(archive.url), quick=quick)
    assert [problem.what for problem in found.problems] == ([what] if what else [])
    assert (found.files, found.rows) == (4, 4)
    assert found.unnamed == len(list(archive.folder.rglob("other*")))


def test_the_commands(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "ARCHIVE_URL", "API_KEY", "ARCHIVE_RETENTION"):
        monkeypatch.delenv(f"DRIFTLINE_{name}", raising=False)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))

    def run(*arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["archiving", *arguments, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    days(archive, 300, 3, 2, 1, 0)
    before = ages(archive)
    assert run("verify")["problems"] == []
    assert "no retention" in run("expire", code=2)["error"]["what"]
    monkeypatch.setenv("DRIFTLINE_ARCHIVE_RETENTION", "100d")
    dry = run("expire", "--dry-run")
    assert dry["expired"][PREDICTIONS]["rows"] == 1
    assert ages(archive) == before
    assert run("expire")["expired"] == dry["expired"]
    assert ages(archive) == [0, 1, 2, 3]
    planned = run("compact", "--dry-run")["merged"]
    merged = run("compact")["merged"]
    topics = (GROUND_TRUTH, PREDICTIONS)
    assert planned == merged == [{"topic": t, "partition": 0, "files": 4, "rows": 4} for t in topics]
    assert run("compact")["merged"] == []
    assert ages(archive) == [0, 1, 2, 3]
    assert run("verify")["files"] == 2
    # The owner of the partitions was not disturbed: its files still follow.
    days(archive, -1)
    assert ages(archive) == [-1, 0, 1, 2, 3]
    next(iter((archive.folder / PREDICTIONS).rglob("*e*-*.parquet"))).unlink()
    assert run("verify", "--quick", code=1)["problems"][0]["what"] == "missing"
