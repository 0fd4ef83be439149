"""The archive on a real S3 endpoint: kept whole through failed, repeated and cut-off uploads, and read from there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from sqlalchemy.orm import Session, sessionmaker

from agents.archiving import agent, dataset, manifest
from agents.archiving import writer as writer_module
from agents.archiving.compaction import FAN_IN, Compactor
from agents.archiving.files import RemoteFiles, open_files
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.datasets.build import Wish, choose, create
from agents.datasets.rows import rows_of
from schemas.errors import ConfigurationError, FencedError, StateError
from schemas.topics import CATALOGUE, GROUND_TRUTH
from streams.kafka import failpoints
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from tests.integration.test_archiving import covered, offsets, running, send
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Store, serve
from tests.support.wait import eventually
from tests.unit.agents.archiving.conftest import Archive
from tests.unit.agents.archiving.test_compaction import TP, claim, fill, rows
from tests.unit.agents.archiving.test_writer import Crash, labels


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Store]:
    yield from serve()


@pytest.fixture
def store(endpoint: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    from fsspec.config import conf

    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(conf, "s3", {"endpoint_url": endpoint.endpoint})
    fs, root = fsspec.core.url_to_fs(endpoint.url)
    monkeypatch.setattr(fs, "retries", 2)
    endpoint.faults.clear()
    yield endpoint
    endpoint.faults.clear()
    fs.invalidate_cache()
    if fs.exists(root):
        fs.rm(root, recursive=True)


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Iterator[Archive]:
    engine = make_engine(f"sqlite:///{tmp_path / 'm.db'}")
    upgrade(engine)
    yield Archive(tmp_path / "nowhere", session_factory(engine), store=store.url)
    engine.dispose()


def objects(archive: Archive) -> dict[str, int]:
    files = open_files(archive.url)
    assert isinstance(files, RemoteFiles)
    return files.listed(GROUND_TRUTH)


def known(archive: Archive) -> set[str]:
    with archive.sessions() as session:
        return {*manifest.paths(session, GROUND_TRUTH), *manifest.retired(session, *TP)}


def seen(archive: Archive) -> list[int]:
    return [offset for offset, *_ in rows(archive)]


def finish(archive: Archive, count: int) -> None:
    """A worker that comes after whatever happened reads everything again and archives what is not there."""
    worker = archive.writer("next")
    start = worker.claim([TP]).get(TP, 0)
    archive.log.ends[TP] = start
    log = labels(archive, count - start)
    worker.add(log, 0)
    worker.flush({TP: count})
    assert seen(archive) == list(range(count))
    assert set(objects(archive)) == known(archive)


# ------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("step", ["archive-written", "archive-published", "archive-recorded"])
def test_a_crash_at_any_step_loses_and_repeats_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def passed(name: str) -> None:
        if name == step:
            raise Crash

    first = archive.writer("first")
    first.claim([TP])
    first.add(labels(archive, 4), 0)
    first.flush({TP: 4})
    first.add(labels(archive, 3), 0)
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "failpoint", passed)
        with pytest.raises(Crash):
            first.flush({TP: 7})
    assert seen(archive) == list(range(7 if step == "archive-recorded" else 4))
    finish(archive, 10)


@pytest.mark.parametrize(
    ("method", "status", "times", "after", "ends"),
    [
        ("PUT", 403, 1, False, True),  # refused for good
        ("PUT", 503, 1, False, False),  # refused, sent again
        ("PUT", 500, 1, True, False),  # stored, but the answer was lost: sent again
        ("PUT", 500, 99, True, True),  # stored, and no answer ever came
    ],
)
def test_uploads_that_fail_are_repeated_or_end_the_worker(
    archive: Archive, store: Store, method: str, status: int, times: int, after: bool, ends: bool
) -> None:
    worker = archive.writer("first")
    worker.claim([TP])
    worker.add(labels(archive, 3), 0)
    fault = store.fail(method, r"/ground-truth/", status, times=times, after=after)
    if ends:
        with pytest.raises(OSError, match=r"."):
            worker.flush({TP: 3})
        assert seen(archive) == []
    else:
        worker.flush({TP: 3})
        assert seen(archive) == [0, 1, 2]
    assert fault.met
    store.faults.clear()
    finish(archive, 8)


def test_objects_that_the_manifest_does_not_name_do_not_exist(archive: Archive) -> None:
    archive.write(labels(archive, 3))
    (path,) = objects(archive)
    files = open_files(archive.url)
    folder = f"{GROUND_TRUTH}/0"
    half, twice = f"{folder}/{3:020d}-{5:020d}.e1.parquet", f"{folder}/{0:020d}-{2:020d}.e9.parquet"
    files.write(half, files.content(path)[:100])  # cut off
    files.write(twice, files.content(path))  # whole, by a worker that has still to record it
    files.write(f"{folder}/notes.txt", b"not ours")
    assert seen(archive) == [0, 1, 2]
    archive.writer().claim([TP])
    assert set(objects(archive)) == {path, twice, f"{folder}/notes.txt"}


def test_a_store_that_kept_less_than_was_sent_is_not_believed(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = archive.writer("first")
    worker.claim([TP])
    worker.add(labels(archive, 3), 0)
    files = worker._files
    assert isinstance(files, RemoteFiles)
    kept = files._fs.pipe_file
    with monkeypatch.context() as patch:
        patch.setattr(files._fs, "pipe_file", lambda name, data: kept(name, data[: len(data) // 2]))
        with pytest.raises(OSError, match="were written"):
            worker.flush({TP: 3})
    assert seen(archive) == []


def test_a_worker_that_slept_through_its_replacement_sweeps_nothing_of_it(archive: Archive) -> None:
    """Stopped between reading the manifest and looking at the folder: what came since is not its own to remove."""
    old = archive.writer("old")
    files = open_files(archive.url)
    with archive.sessions.begin() as session:
        held = manifest.claim(session, [TP], "old")[TP]
        paths = set(manifest.paths(session, *TP))
    new = archive.writer("new")
    new.claim([TP])
    new.add(labels(archive, 4), 0)
    new.flush({TP: 4})
    assert files.sweep(*TP, paths, held.epoch) == 0
    assert seen(archive) == [0, 1, 2, 3]
    old._claims[TP] = held
    archive.log.ends[TP] = 0
    old.add(labels(archive, 2), 0)
    with pytest.raises(FencedError):
        old.flush({TP: 2})
    assert seen(archive) == [0, 1, 2, 3]


def test_no_rename_is_asked_of_the_store(archive: Archive, store: Store) -> None:
    store.requests.clear()
    archive.write(labels(archive, 3))
    methods = [method for method, path in store.requests if GROUND_TRUTH in path]
    assert methods.count("PUT") == 1
    assert "DELETE" not in methods
    assert "POST" not in methods


# ------------------------------------------------------------------------------------------------------ reading


def test_merged_files_are_read_as_before(archive: Archive, store: Store) -> None:
    fill(archive, FAN_IN)
    before = rows(archive)
    worker = Compactor(open_files(archive.url), archive.sessions, archive.sessions)
    held = claim(archive)
    store.fail("PUT", r"/ground-truth/")
    with pytest.raises(OSError, match=r"."):
        worker.compact(TP, held)
    assert rows(archive) == before
    assert worker.compact(TP, held)
    assert rows(archive) == before
    assert len(known(archive)) == FAN_IN + 1
    with archive.sessions() as session:
        assert len(manifest.paths(session, *TP)) == 1


def test_queries_and_datasets_read_from_there(archive: Archive, tmp_path: Path) -> None:
    fill(archive, 3)
    with archive.sessions() as session:
        chosen = choose(session, archive.url, "SELECT label, event_time_ms FROM ground_truth", as_of_ms=5)
    assert {file.path for file in chosen.files} <= known(archive)
    artifacts = ArtifactStore(str(tmp_path / "artifacts"))
    made = create(archive.sessions, artifacts, chosen, Wish("d", "ada"))
    assert made.rows == rows_of(artifacts, made.data).num_rows > 0
    with (
        archive.sessions() as session,
        dataset.connect(session, archive.url) as connection,
        pytest.raises(Exception, match=r"disabled|loading"),
    ):
        connection.execute(f"SELECT * FROM read_parquet('{archive.url}/{chosen.files[0].path}')")


def test_only_what_is_asked_for_is_fetched(archive: Archive, store: Store) -> None:
    fill(archive, 4)
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        store.requests.clear()
        connection.execute("SELECT count(*) FROM alerts").fetchall()
        assert not [path for _, path in store.requests if path.endswith(".parquet")]
        assert connection.execute("SELECT count(*) FROM ground_truth").fetchall() == [(12,)]
        assert [path for _, path in store.requests if path.endswith(".parquet")]


def test_an_object_that_is_gone_is_an_error_naming_it(archive: Archive) -> None:
    fill(archive, 2)
    (first, _) = objects(archive)
    open_files(archive.url).remove(first)
    with pytest.raises(StateError, match=first.rpartition("/")[2]):
        seen(archive)


# ------------------------------------------------------------------------------------------------------ settings


def test_no_secret_is_said(archive: Archive, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    from agents.commands.project import shown_settings
    from agents.runtime import configure_log

    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    try:
        configure_log(load_settings(log_level="DEBUG"))
        root.addHandler(caplog.handler)
        archive.write(labels(archive, 2))
        seen(archive)
        store.fail("PUT", r"/ground-truth/")
        with pytest.raises(OSError, match=r".") as told:
            archive.write(labels(archive, 2))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    said = caplog.text + str(told.value) + repr(load_settings()) + str(shown_settings(load_settings()))
    assert SECRET_KEY not in said
    assert ACCESS_KEY not in said


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for name in ("registry", "_registry"):
        monkeypatch.setattr(sys.modules["fsspec.registry"], name, {})
    with pytest.raises(ConfigurationError, match=r"driftline\[s3\]"):
        open_files("s3://bucket/archive")


# ------------------------------------------------------------------------------------------------------- the agent


@pytest.fixture
def settings(kafka: KafkaConfig, store: Store, tmp_path: Path) -> Settings:
    ensure_topics(kafka, 3, {name: CATALOGUE[name] for name in agent.ARCHIVED})
    return load_settings(
        home=tmp_path / "home", bootstrap_servers=kafka.bootstrap_servers, prefix=kafka.prefix, archive_idle_ms=50
    )


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(settings.database)
    upgrade(engine)
    yield session_factory(engine, read_only=True)
    engine.dispose()


def test_a_killed_agent_is_followed_by_one_that_goes_on(
    settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session], store: Store
) -> None:
    """Killed with its objects uploaded and nothing recorded; everything is there once in the end."""
    send(kafka, range(50))
    child = subprocess.run(
        [sys.executable, "-c", "from agents.bootstrap import run_agent; from agents.config import load_settings; "
         "run_agent('archiving', load_settings())"],
        env={
            **os.environ,
            "DRIFTLINE_HOME": str(settings.home),
            "DRIFTLINE_PREFIX": kafka.prefix,
            "DRIFTLINE_ARCHIVE_IDLE_MS": "50",
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            failpoints.VARIABLE: "archive-written",
        },
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert child.returncode == failpoints.EXIT_CODE, child.stderr
    assert SECRET_KEY not in child.stderr
    files = open_files(settings.archive)
    assert isinstance(files, RemoteFiles)
    assert files.listed(GROUND_TRUTH)
    assert offsets(sessions, settings)[GROUND_TRUTH] == []
    with running(settings, kafka):
        eventually(lambda: covered(sessions, kafka), timeout=40)
    for found in offsets(sessions, settings).values():
        assert len(found) == len(set(found)) == 50
    with sessions() as session:
        for topic in agent.ARCHIVED:
            assert set(files.listed(topic)) == set(manifest.paths(session, topic))
