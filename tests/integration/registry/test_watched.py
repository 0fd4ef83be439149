"""Models that are only watched, in the registry: names become numbers, once, on both databases."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from agents.database import migrate
from agents.database.engine import make_engine
from agents.registry import watched
from agents.registry.audit import verify_audit
from schemas import topics
from schemas.codec import decode
from schemas.errors import ConflictError, NotFoundError, TransitionError
from schemas.events import ModelRegistered, ObserveVersion, VersionObserved
from schemas.reference import ReferenceStatistics
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text


def register(world: RegistryWorld, **how: str | None) -> list[int]:
    with world.sessions.begin() as session:
        return watched.register(world.registry, session, spec_text(), "ann", **how)  # type: ignore[arg-type]


def see(world: RegistryWorld, external: str, model: str = "m") -> int:
    command = ObserveVersion(command_id=external, model=model, actor="monitoring", external=external, at=EVENT_TIME)
    with world.sessions.begin() as session:
        return watched.observe(world.registry, session, command)


def reference(world: RegistryWorld, content: str = "{}") -> str:
    return world.store.put(content.encode(), "reference")


def test_names_get_numbers_that_stay(world: RegistryWorld) -> None:
    first = reference(world)
    assert register(world, reference=first) == []
    assert [see(world, name) for name in ("rc1", "rc2", "rc1", "7", "2")] == [1, 2, 1, 7, 8]
    state = world.states()[-1]
    assert state.monitored
    assert state.champion == 8
    assert [(v.version, v.external, v.reference, v.artifact) for v in state.versions] == [
        (1, "rc1", first, ""),
        (2, "rc2", first, ""),
        (7, "7", first, ""),
        (8, "2", first, ""),
    ]
    assert [v.registered_epoch for v in state.versions] == sorted(v.registered_epoch for v in state.versions)
    events = world.events()
    assert isinstance(events[0], ModelRegistered)
    assert events[0].monitored
    seen = [event for event in events if isinstance(event, VersionObserved)]
    assert [(e.version, e.external, e.parent) for e in seen] == [
        (1, "rc1", None),
        (2, "rc2", 1),
        (7, "7", 2),
        (8, "2", 7),
    ]
    assert {e.actor for e in seen} == {"monitoring"}
    with world.readers() as session:
        assert verify_audit(session).problem is None
        assert [v.stage for v in world.registry.versions(session, "m", world.now)] == ["observed"] * 4
        assert world.registry.models(session)[0].monitored


def test_another_reference_is_another_number(world: RegistryWorld) -> None:
    first, second = reference(world), reference(world, '{"a": 1}')
    register(world, reference=first)
    see(world, "rc1")
    see(world, "rc2")
    # For the newest and for all that come later:
    assert register(world, reference=second) == [3]
    assert see(world, "rc2") == 3
    assert see(world, "rc1") == 1
    assert see(world, "rc3") == 4
    # For one of them only:
    assert register(world, reference=first, external="rc1") == [5]
    assert see(world, "rc4") == 6
    found = {v.version: (v.external, v.reference) for v in world.states()[-1].versions}
    assert found[3] == ("rc2", second)
    assert found[4] == ("rc3", second)
    assert found[5] == ("rc1", first)
    assert found[6] == ("rc4", second)
    with pytest.raises(NotFoundError):
        register(world, reference=first, external="rc9")


def test_a_learnt_reference_goes_to_the_versions_without_one(world: RegistryWorld) -> None:
    register(world, window="14d")
    see(world, "rc1")
    see(world, "rc2")
    nothing = decode(world.store.get(world.states()[-1].versions[0].reference), ReferenceStatistics)
    assert nothing.rows == 0
    with world.readers() as session:
        assert [row.name for row in watched.learning(session)] == ["m"]
        assert world.registry.models(session)[0].learning
    sha = reference(world)
    with world.sessions.begin() as session:
        made = watched.learnt(
            world.registry, session, "m", sha, actor="retraining", at=EVENT_TIME, reason="learnt from 14d"
        )
    assert made == [3, 4]
    assert (see(world, "rc1"), see(world, "rc2"), see(world, "rc3")) == (3, 4, 5)
    assert {v.version: v.reference == sha for v in world.states()[-1].versions} == {
        1: False, 2: False, 3: True, 4: True, 5: True
    }  # fmt: skip
    with world.readers() as session:
        assert watched.learning(session) == []
        assert [v.external for v in world.registry.versions(session, "m") if v.champion] == ["rc3"]
    with world.sessions.begin() as session, pytest.raises(ConflictError, match="meanwhile"):
        watched.learnt(world.registry, session, "m", sha, actor="retraining", at=EVENT_TIME, reason="again")
    # Learning again begins with nothing.
    assert register(world, window="7d") == [6]
    assert see(world, "rc3") == 6


def test_what_needs_the_model_is_refused(world: RegistryWorld) -> None:
    register(world, reference=reference(world))
    see(world, "rc1")
    registry = world.registry
    for call in (
        lambda session: registry.approve(session, "m", 1, "ann"),
        lambda session: registry.reject(session, "m", 1, "ann", "no"),
        lambda session: registry.rollback(session, "m", actor="ann", reason="no"),
        lambda session: registry.register_model(session, spec_text(), "ann"),
        world.version,
    ):
        with world.sessions.begin() as session, pytest.raises(TransitionError, match="only watched"):
            call(session)
    world.model("trained")
    with world.sessions.begin() as session, pytest.raises(ConflictError, match="trained here"):
        watched.register(registry, session, spec_text("trained"), "ann", window="14d")
    with pytest.raises(TransitionError, match="do not just appear"):
        see(world, "rc1", "trained")
    with pytest.raises(NotFoundError):
        see(world, "rc1", "nobody")


def test_a_model_takes_so_many_names_and_no_more(world: RegistryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "MOST_EXTERNAL_VERSIONS", 2)
    register(world, reference=reference(world))
    assert [see(world, name) for name in ("a", "b", "a")] == [1, 2, 1]
    with pytest.raises(ConflictError, match="no more"):
        see(world, "c")
    assert topics.MOST_EXTERNAL_VERSIONS > 2


def test_workers_that_see_a_name_together_get_one_number(world: RegistryWorld) -> None:
    register(world, reference=reference(world))
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda name=name: numbers.append(see(world, name))) for name in "aabbaabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers) == [1] * 4 + [2] * 4
    assert len(world.states()[-1].versions) == 2


def test_a_database_of_before_keeps_its_models(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command
    from alembic.config import Config

    engine = make_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        sha = "a" * 64
        connection.execute(text(f"INSERT INTO registry_specifications VALUES ('{sha}', 'spec')"))
        connection.execute(
            text(
                "INSERT INTO registry_models (name, task, specification, champion, challenger, epoch, actor, "
                f"registered_at) VALUES ('old', 'binary', '{sha}', 1, NULL, 3, 'ann', '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO deliveries (event_id, incident_id, target, label, channel, alert, status, attempts, "
                "created_at, next_at, error) VALUES ('e', 'i', 't', 'l', 'webhook', '{}', 'pending', 0, "
                "'2026-01-01 00:00:00', '2026-01-01 00:00:00', '')"
            )
        )
    assert migrate.upgrade(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT name, champion, monitored, reference FROM registry_models")).one()
        assert (kept[0], kept[1], bool(kept[2]), kept[3]) == ("old", 1, False, None)
        assert connection.execute(text("SELECT kind FROM deliveries")).scalar() == "alert"
    engine.dispose()
