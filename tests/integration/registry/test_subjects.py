"""Keys of people: made once whoever asks, destroyed for good, and everybody is told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from agents.access.logic import local_principal
from agents.database.engine import make_engine, session_factory
from agents.registry.audit import verify_audit
from agents.subjects.erasure import Erased, erase
from agents.subjects.keys import SubjectKeys, forgetful
from agents.subjects.master import Master
from agents.subjects.sealing import SEALED, Rule, SubjectKey, place, sealed_prediction
from agents.subjects.tables import SubjectErasureRow, SubjectKeyRow
from agents.subjects.usage import record
from schemas.errors import ConfigurationError, NotFoundError
from schemas.events import FLEET, Prediction, SubjectErased
from streams.kafka.failpoints import EXIT_CODE
from tests.support.registries import RegistryWorld, spec_text

SECRET = Master(b"m" * 32)
ANN = local_principal("ann")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def keys_of(world: RegistryWorld, secret: Master = SECRET, clock: Clock | None = None) -> SubjectKeys:
    engine = make_engine(world.engine.url.render_as_string(hide_password=False))
    forgetful(engine)
    places = (session_factory(engine), session_factory(engine, read_only=True))
    return SubjectKeys(lambda: places, lambda: secret, seconds=clock or Clock())


def gone(world: RegistryWorld, subject: str, **more: Any) -> Erased:
    return erase(world.sessions, SECRET, world.store, subject, ANN, **more)


def count(world: RegistryWorld, table: Any) -> int:
    with world.readers() as session:
        return int(session.scalar(select(func.count()).select_from(table)) or 0)


def test_a_subject_has_one_key_whoever_asks_first(world: RegistryWorld) -> None:
    found: list[dict[str, SubjectKey]] = []
    names = [f"person {n}" for n in range(1200)]
    start = threading.Barrier(4)

    def ask() -> None:
        keys = keys_of(world)
        start.wait()
        found.append(keys.of_subjects(names))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert count(world, SubjectKeyRow) == len(names)
    for name in names:
        text = found[0][name].seal({"f": {"x": 1}}, [])
        assert all(one[name].seal({"f": {"x": 1}}, []) == text for one in found), "a replay gives the same bytes"
    ids = {key.id for key in found[0].values()}
    known = keys_of(world).of_ids(ids)
    assert all(key is not None and key.id == id for id, key in known.items())


def test_another_master_key_is_refused(world: RegistryWorld) -> None:
    assert not keys_of(world).any()
    keys_of(world).of_subjects(["ann"])
    assert keys_of(world).any()
    with pytest.raises(ConfigurationError, match="master key"):
        keys_of(world, Master(b"n" * 32)).of_subjects(["ann"])


def test_the_plain_subject_is_nowhere(world: RegistryWorld) -> None:
    keys_of(world).of_subjects(["Ann Example"])
    gone(world, "Ann Example")
    with world.readers() as session:
        told = [str(value) for row in session.execute(select(SubjectErasureRow.__table__)) for value in row]
    assert not any("Ann" in text for text in told)
    assert not any("Ann" in str(event) for event in world.events())


def test_an_erased_subject_cannot_be_read_any_more(world: RegistryWorld) -> None:
    clock = Clock()
    keys = keys_of(world, clock=clock)
    first = keys.of_subjects(["ann", "bob"])
    assert keys.of_ids([first["ann"].id])[first["ann"].id] is not None

    said = gone(world, "ann", dry_run=True)
    assert (said.keys, said.dry_run, said.epoch) == (1, True, None)
    assert count(world, SubjectKeyRow) == 2

    done = gone(world, "ann")
    assert (done.keys, done.left) == (1, [])
    assert done.epoch is not None
    clock.now += 2
    after = keys.of_ids([first["ann"].id, first["bob"].id])
    assert after[first["ann"].id] is None
    assert after[first["bob"].id] is not None
    told = [event for event in world.events() if isinstance(event, SubjectErased)]
    assert [(event.model, event.subject, event.actor, event.principal) for event in told] == [
        (FLEET, SECRET.pseudonym("ann"), "ann", ANN.id)
    ]
    with world.readers() as session:
        assert verify_audit(session).problem is None

    again = gone(world, "ann")
    assert (again.keys, again.epoch) == (0, done.epoch)
    assert count(world, SubjectErasureRow) == 1
    # Whoever comes back is somebody new: what was erased stays so.
    assert keys.of_subjects(["ann"])["ann"].id != first["ann"].id


def test_somebody_unknown_is_refused(world: RegistryWorld) -> None:
    keys_of(world).of_subjects(["ann"])
    with pytest.raises(NotFoundError, match="nothing of this subject"):
        gone(world, "nobody")
    assert world.events() == []


def test_it_says_which_versions_learnt_from_the_rows(world: RegistryWorld) -> None:
    keys = keys_of(world).of_subjects(["ann", "bob", "eve"])
    world.model()
    sets = [["ann", "bob"], ["bob"], [], ["ann", "eve"]]
    with world.sessions.begin() as session:
        for number, names in enumerate(sets):
            world.registry.register_version(
                session,
                "m",
                artifact=world.store.put(b"model %d" % number, "model"),
                reference=world.store.put(b"{}", "reference"),
                specification_text=spec_text("m"),
                code={},
                dataset={"rows": 3, **record(world.store, [keys[name].id for name in names])},
                environment={},
                parameters={},
                seed=1,
                parent=None,
                run_id=None,
                report={},
                actor="ann",
                at=world.now,
            )
    assert gone(world, "ann").trained == {"m": [1, 4]}
    assert gone(world, "bob", dry_run=True).trained == {"m": [1, 2]}
    told = [event for event in world.events() if isinstance(event, SubjectErased)]
    assert [event.trained for event in told] == [{"m": [1, 4]}]


CHILD = """
import sys
from agents.access.logic import local_principal
from agents.artifacts import ArtifactStore
from agents.database.engine import make_engine, session_factory
from agents.subjects.erasure import erase
from agents.subjects.master import Master
sessions = session_factory(make_engine(sys.argv[1]))
erase(sessions, Master(b"m" * 32), ArtifactStore(sys.argv[2]), "ann", local_principal("ann"))
"""


@pytest.mark.parametrize(("step", "erased"), [("subject-key-deleted", False), ("subject-erased", True)])
def test_a_crash_leaves_all_of_it_or_nothing(world: RegistryWorld, step: str, erased: bool) -> None:
    keys_of(world).of_subjects(["ann"])
    url = world.engine.url.render_as_string(hide_password=False)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, world.store.url],
        env={**os.environ, "DRIFTLINE_FAILPOINT": step},
        check=False,
    )
    assert child.returncode == EXIT_CODE
    there = (count(world, SubjectKeyRow), count(world, SubjectErasureRow), len(world.events()))
    assert there == ((0, 1, 1) if erased else (1, 0, 0))
    with world.readers() as session:
        assert verify_audit(session).problem is None
    assert gone(world, "ann").keys == (0 if erased else 1)
    assert (count(world, SubjectErasureRow), len(world.events())) == (1, 1)


def test_no_byte_of_the_key_is_left_beside_the_database(tmp_path: Path) -> None:
    from agents.database.migrate import upgrade

    world = RegistryWorld(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    upgrade(world.engine)
    keys = keys_of(world)
    for start in range(0, 400, 20):  # many pages, split again and again
        keys.of_subjects([f"person {n}" for n in range(start, start + 20)])
    backup = tmp_path / "registry.db.0007.backup"
    with sqlite3.connect(tmp_path / "registry.db") as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    with world.readers() as session:
        row = session.scalars(
            select(SubjectKeyRow).where(SubjectKeyRow.subject == SECRET.pseudonym("person 207"))
        ).one()
        kept = session.scalars(select(SubjectKeyRow).where(SubjectKeyRow.subject == SECRET.pseudonym("person 8"))).one()
    files = [tmp_path / "registry.db", tmp_path / "registry.db-wal", backup]

    def holding(wrapped: bytes) -> list[str]:
        return [path.name for path in files if path.exists() and wrapped in path.read_bytes()]

    assert holding(row.wrapped), "else this looks in the wrong places"
    assert gone(world, "person 207").left == []
    assert holding(row.wrapped) == []
    assert set(holding(kept.wrapped)) >= {"registry.db.0007.backup"}
    world.close()


def test_sealed_text_of_two_workers_is_the_same(world: RegistryWorld) -> None:
    made = Prediction(
        prediction_id="p", model="m", version=1, event_time_ms=1, features={"who": "ann", "x": 1.5}, prediction=1
    )
    rule = Rule("who", frozenset())
    texts = set()
    for _ in range(2):
        hidden = sealed_prediction(made, rule, keys_of(world).of_subjects(["ann"])["ann"], "predictions")
        texts.add(hidden.features[SEALED])
    assert len(texts) == 1
    key = keys_of(world).of_subjects(["ann"])["ann"]
    assert key.open(str(texts.pop()), place("predictions", "m", "p")) == {"f": made.features}
