"""Models and versions are found by pattern, tag, owner, team and alias, now and as of any moment, on both databases."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.registry.search import Search, find_models, find_versions
from agents.registry.tables import ModelRow
from agents.registry.tags import MOST_TAGS, parsed
from schemas.errors import ConfigurationError, NotFoundError
from schemas.events import TagsChanged
from tests.support.registries import RegistryWorld, spec_text

NAMES = ["Bus-1", "bus-1", "bus-10", "bus-2", "bus_1", "b%s", "tram-1", "tram-[1]", "x"]


def described(name: str, *, owner: str = "", team: str = "", tags: str = "") -> str:
    return spec_text(name).replace(
        'task = "binary"', f'task = "binary"\nowner = "{owner}"\nteam = "{team}"\ntags = {{ {tags} }}'
    )


def register(world: RegistryWorld, name: str, **said: str) -> datetime:
    with world.sessions.begin() as session:
        world.registry.register_model(session, described(name, **said), "ann")
    return world.now


def tag(world: RegistryWorld, name: str, version: int | None = None, *remove: str, **tags: str) -> datetime:
    with world.sessions.begin() as session:
        world.registry.tag(session, name, version, tags, remove, "bea")
    return world.now


def models(world: RegistryWorld, **search: object) -> list[str]:
    with world.readers() as session:
        return [info.model for info in find_models(session, Search(**search))[0]]  # type: ignore[arg-type]


def test_what_models_are_found_by(world: RegistryWorld) -> None:
    register(world, "bus-1", owner="ann", team="transit", tags='city = "nyc"')
    register(world, "bus-2", owner="bob", team="transit", tags='city = "nyc", fuel = "gas"')
    register(world, "tram-1", owner="ann", team="rail")
    world.candidate("bus-1")
    world.model("taxi", mode="manual")
    world.candidate("taxi", mode="manual")
    assert models(world) == ["bus-1", "bus-2", "taxi", "tram-1"]
    assert models(world, match="bus-*") == ["bus-1", "bus-2"]
    assert models(world, owner="ann") == ["bus-1", "tram-1"]
    assert models(world, team="transit", owner="bob") == ["bus-2"]
    assert models(world, tags={"city": "nyc"}) == ["bus-1", "bus-2"]
    assert models(world, tags={"city": "nyc", "fuel": None}) == ["bus-2"]
    assert models(world, tags={"@owner": "x"}) == []
    assert models(world, alias="champion") == ["bus-1"]
    assert models(world, alias="challenger") == ["taxi"]
    with world.readers() as session:
        (found,), after = find_models(session, Search(match="bus-1"))
    assert (found.owner, found.team, found.tags, found.versions, found.champion, after) == (
        *("ann", "transit", {"city": "nyc"}, 1, 1, ""),
    )
    with pytest.raises(ConfigurationError, match="no alias"):
        Search(alias="boss")


def test_pages_are_whole_and_hold_only_what_may_be_seen(world: RegistryWorld) -> None:
    for number in range(7):
        register(world, f"m{number}")

    def odd(names: object) -> list[str]:
        return [name for name in names if int(name[1:]) % 2]  # type: ignore[attr-defined]

    pages, after = [], ""
    with world.readers() as session:
        while True:
            found, after = find_models(session, Search(limit=2, after=after), odd)
            pages.append([info.model for info in found])
            if not after:
                break
    assert pages == [["m1", "m3"], ["m5"]]


def test_tags_are_what_they_were_at_every_moment(world: RegistryWorld) -> None:
    first = register(world, "m", owner="ann", tags='env = "test"')
    second = tag(world, "m", env="prod", tier="1")
    third = tag(world, "m", None, "tier", "absent")
    fourth = register(world, "m", owner="cyd")  # a new specification: its tag `env` was changed since, and stays
    wanted = [
        (first, "ann", {"env": "test"}),
        (second, "ann", {"env": "prod", "tier": "1"}),
        (third, "ann", {"env": "prod"}),
        (fourth, "cyd", {"env": "prod"}),
    ]
    with world.readers() as session:
        for moment, owner, tags in wanted:
            (found,), _ = find_models(session, Search(as_of=moment))
            assert (found.owner, found.tags) == (owner, tags)
    assert models(world, as_of=first, tags={"env": "test"}) == ["m"]
    assert models(world, as_of=second, tags={"env": "test"}) == []
    assert models(world, as_of=third, owner="cyd") == []
    said = [event for event in world.events() if isinstance(event, TagsChanged)]
    assert [(event.tags, event.removed, event.actor) for event in said] == [
        ({"@owner": "ann", "env": "test"}, [], "ann"),
        ({"env": "prod", "tier": "1"}, [], "bea"),
        ({}, ["tier"], "bea"),
        ({"@owner": "cyd"}, [], "ann"),
    ]
    before = len(world.events())
    tag(world, "m", env="prod")
    register(world, "m", owner="cyd")
    assert len(world.events()) == before, "nothing changed, nothing is told"


def test_versions_have_tags_of_their_own(world: RegistryWorld) -> None:
    for name in ("m", "n"):
        world.model(name)
        world.candidate(name)
        world.candidate(name)
    moment = tag(world, "m", 1, checked="yes")
    tag(world, "n", None, checked="yes")
    with world.readers() as session:
        found, _ = find_versions(session, Search(tags={"checked": "yes"}))
        assert [(v.model, v.version, v.tags, v.champion) for v in found] == [("m", 1, {"checked": "yes"}, False)]
        assert world.registry.version(session, "m", 1).tags == {"checked": "yes"}
        champions, _ = find_versions(session, Search(alias="champion"))
        assert [(v.model, v.version) for v in champions] == [("m", 2), ("n", 2)]
        superseded, _ = find_versions(session, Search(stage="superseded", match="n*"))
        assert [(v.model, v.version) for v in superseded] == [("n", 1)]
        page, after = find_versions(session, Search(limit=1))
        assert ([(v.model, v.version) for v in page], after) == ([("m", 1), ("m", 2)], "m")
    tag(world, "m", 1, "checked")
    with world.readers() as session:
        assert [v.version for v in find_versions(session, Search(tags={"checked": None}, as_of=moment))[0]] == [1]
        assert find_versions(session, Search(tags={"checked": None}))[0] == []


def test_what_is_no_tag(world: RegistryWorld) -> None:
    world.model()
    for wrong in ("a b=1", "=1", "@owner=me", "plain", "k" * 129 + "=1", "k=" + "v" * 257):
        with pytest.raises(ConfigurationError, match="is no tag"):
            parsed([wrong])
    with world.sessions.begin() as session, pytest.raises(ConfigurationError, match="more than"):
        world.registry.tag(session, "m", None, {str(n): "1" for n in range(MOST_TAGS + 1)}, [], "ann")
    with world.sessions.begin() as session, pytest.raises(NotFoundError):
        world.registry.tag(session, "m", 4, {"a": "1"}, [], "ann")


def test_patterns_mean_what_they_mean_everywhere(world: RegistryWorld) -> None:
    with world.sessions.begin() as session:
        world.registry.register_model(session, described("m"), "ann")
        first = session.get_one(ModelRow, "m")
        for name in NAMES:
            row = {"task": first.task, "specification": first.specification, "epoch": 1, "actor": "ann"}
            session.add(ModelRow(name=name, registered_at=first.registered_at, **row))
    names = [*NAMES, "m"]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(pattern=st.text("bB*?[]!^-%_\\1s", max_size=6))
    def same(pattern: str) -> None:
        assert set(models(world, match=pattern)) == {name for name in names if fnmatchcase(name, pattern)}

    same()
