"""A version whose file is missing or altered is not let in, whoever decides; the refusal is audited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.access.logic import local_principal
from agents.gateway.decisions import RegistryDecisions
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.search import Search
from schemas.errors import ArtifactError, ConflictError
from schemas.events import CommandRefused, ModelPromoted
from tests.support.registries import RegistryWorld

BEA = local_principal("bea")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "the artifact is missing": Path.unlink,
    "altered": flip,
    "the bytes hash to": shorten,
    "more than the 1000000 bytes": lambda path: path.write_bytes(b"x" * 1_000_001),
}


def waiting(world: RegistryWorld, name: str = "m") -> Path:
    """A version that waits for people; its file."""
    world.model(name, mode="manual")
    world.candidate(name, mode="manual")
    return held(world, name)


def held(world: RegistryWorld, name: str = "m") -> Path:
    with world.readers() as session:
        return Path(world.store.path(world.registry.version(session, name, 1).artifact))


def stage(world: RegistryWorld, name: str = "m") -> str:
    with world.readers() as session:
        return world.registry.version(session, name, 1).stage


def refusals(world: RegistryWorld) -> list[CommandRefused]:
    with world.readers() as session:
        assert compare_tables(session, verify_audit(session)).problem is None
    return [event for event in world.events() if isinstance(event, CommandRefused)]


@pytest.mark.parametrize("said", DAMAGES)
def test_what_was_damaged_is_refused_told_and_approved_once_it_is_restored(
    world: RegistryWorld, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.registry.intact.MAX_MODEL_BYTES", 1_000_000)
    file = waiting(world)
    whole = file.read_bytes()
    DAMAGES[said](file)
    decisions = RegistryDecisions(world.registry, world.readers)
    with pytest.raises(ArtifactError, match=said) as refused:
        decisions.approve("m", 1, by=BEA, actor="bea", comment="fine")
    assert (refused.value.where, "restore" in refused.value.remedy) == ("m version 1", True)
    with pytest.raises(ArtifactError, match=said), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "bea")
    assert (stage(world), world.champion()) == ("approval-requested", None)
    (told,) = refusals(world)
    assert (told.model, told.actor, told.principal) == ("m", "bea", "local:bea")
    assert (told.command, told.reason) == ("ApproveVersion", "artifact")
    assert said in told.detail
    file.write_bytes(whole)
    decisions.approve("m", 1, by=BEA, actor="bea", comment="fine")
    assert (stage(world), world.champion()) == ("promoted", 1)


def test_what_was_decided_already_is_said_first(world: RegistryWorld) -> None:
    file = waiting(world)
    decisions = RegistryDecisions(world.registry, world.readers)
    decisions.approve("m", 1, by=BEA, actor="bea", comment="")
    file.unlink()
    with pytest.raises(ConflictError, match="promoted already"):
        decisions.approve("m", 1, by=BEA, actor="cyd", comment="")
    assert refusals(world) == []


def test_one_of_many_keeps_no_other_and_each_file_is_read_once(
    world: RegistryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: waiting(world, name) for name in ("bus-1", "bus-2", "bus-3")}
    flip(files["bus-2"])
    read, check = [], world.store.check

    def counted(sha: str, *, max_bytes: int) -> int:
        read.append(sha)
        return check(sha, max_bytes=max_bytes)

    monkeypatch.setattr(world.store, "check", counted)
    decisions = RegistryDecisions(world.registry, world.readers)
    found = decisions.decide_all(
        *("approve", decisions.chosen("approve", Search()), BEA, "bea", "all fine", lambda _: True)
    )
    assert [outcome.stage for outcome in found] == ["promoted", None, "promoted"]
    assert "altered" in (found[1].problem or "")
    assert sorted(read) == sorted(file.name for file in files.values())
    (told,) = refusals(world)
    assert (told.model, told.principal) == ("bus-2", "local:bea")
    assert {event.model for event in world.events() if isinstance(event, ModelPromoted)} == {"bus-1", "bus-3"}


def test_policies_do_not_promote_it_either(world: RegistryWorld) -> None:
    world.model()
    with world.sessions.begin() as session:
        world.version(session)
    flip(held(world))
    with pytest.raises(ArtifactError, match="altered"), world.sessions.begin() as session:
        world.submit(session, 1)
    assert (stage(world), world.champion()) == ("registered", None)
    with world.sessions.begin() as session:
        assert world.submit(session, 1, passed=False) == "rejected"
