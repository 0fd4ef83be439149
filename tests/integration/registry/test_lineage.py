"""Lineage is read from what versions record, on both databases."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import select

from agents.access.logic import local_principal
from agents.datasets.build import Chosen, Wish, create
from agents.datasets.catalog import find
from agents.datasets.parents import sources
from agents.gateway.decisions import RegistryDecisions
from agents.registry import lineage
from agents.registry.drawing import svg
from agents.registry.tables import EnvironmentRow
from schemas.errors import ConfigurationError, NotFoundError
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text

JANUARY, SEASONS, COMMIT = "1a" * 32, "2b" * 32, "3c" * 20
OLD, NEW = "4d" * 32, "5e" * 32
NO_STORE: dict[str, dict[str, str]] = {}
PACKAGES = {OLD: {"scikit-learn": "1.8.0", "numpy": "2.1.0"}, NEW: {"scikit-learn": "1.9.1", "numpy": "2.4.6"}}


def promoted(world: RegistryWorld, name: str, parent: int | None, **record: Any) -> int:
    """A version that became champion."""
    with world.sessions.begin() as session:
        version = world.registry.register_version(
            session,
            name,
            artifact=world.store.put(f"{name} {world.now}".encode(), "model"),
            reference=world.store.put(b"{}", "reference"),
            specification_text=spec_text(name),
            code={"tree": "tree-" + "0" * 59, "commit": record.get("commit", COMMIT)},
            dataset={"rows": 3, "sha256": record["rows"], "registered": record["data"], **record.get("more", {})},
            environment={"python": "3.11", "lock": record["lock"]},
            parameters={},
            seed=0,
            parent=parent,
            run_id=f"run-{name}-{parent}",
            report={},
            actor="ann",
            at=EVENT_TIME,
        )
        world.submit(session, version, name)
        return version


@pytest.fixture(params=["indexed", "from-the-store"])
def history(request: pytest.FixtureRequest, world: RegistryWorld, monkeypatch: pytest.MonkeyPatch) -> RegistryDecisions:
    """Two models of one table; the first has had three versions, the third of them without that commit.

    Packages are known when a version is registered, or their locks are read where somebody asks.
    """
    if request.param == "indexed":
        monkeypatch.setattr(world.registry, "packages", PACKAGES.__getitem__)
    archive = {"archive": {"from": "2013-01-01T00:00:00Z", "as_of": "2013-03-01T00:00:00Z"}, "seasons": SEASONS}
    for name in ("m", "n"):
        world.model(name)
    promoted(world, "m", None, data=JANUARY, rows="a1" * 32, lock=OLD)
    promoted(world, "m", 1, data=JANUARY, rows="b2" * 32, lock=OLD, more=archive)
    promoted(world, "m", 2, data=JANUARY, rows="c3" * 32, lock=NEW, commit="9f" * 20 + "-dirty", more=archive)
    promoted(world, "n", None, data=JANUARY, rows="a1" * 32, lock=OLD)
    return RegistryDecisions(world.registry, world.readers)


def test_ancestors_and_descendants(history: RegistryDecisions) -> None:
    found = history.lineage("m", 2)
    assert found.of.label == "m 2"
    assert not found.of.live
    before = {name for name, depth in found.depth.items() if depth < 0}
    after = {name for name, depth in found.depth.items() if depth > 0}
    assert after == {"version:m/3"}
    assert {
        "version:m/1",
        f"dataset:{JANUARY}",
        f"dataset:{SEASONS}",
        f"commit:{COMMIT}",
        f"environment:{OLD}",
        "run:run-m-1",
        f"rows:{'b2' * 32}",
        "archive:m/2013-01-01T00:00:00Z/2013-03-01T00:00:00Z",
    } <= before
    assert f"rows:{'a1' * 32}" in before, "what the parent was made from"
    assert f"rows:{'c3' * 32}" not in found.depth, "what a descendant was made from besides"
    assert ("version:m/2", "version:m/3", "successor of") in {(e.source, e.target, e.relation) for e in found.edges}
    assert all(found.depth[edge.source] < found.depth[edge.target] for edge in found.edges)


def test_a_model_stands_for_its_champion(history: RegistryDecisions) -> None:
    found = history.lineage("m")
    assert found.of == lineage.Node(id="version:m/3", kind="version", label="m 3", live=True)
    with pytest.raises(NotFoundError, match="no model"):
        history.lineage("absent")
    with pytest.raises(NotFoundError, match="version:m/9"):
        history.lineage("m", 9)


def test_a_thing_has_a_lineage_of_its_own(history: RegistryDecisions) -> None:
    found = history.lineage_of("dataset", JANUARY[:8])
    assert (found.of.id, found.of.kind) == (f"dataset:{JANUARY}", "dataset")
    assert set(found.depth) == {found.of.id, "version:m/1", "version:m/2", "version:m/3", "version:n/1"}
    assert {node.id for node in found.nodes if node.live} == {"version:m/3", "version:n/1"}
    rows = history.lineage_of("dataset", "b2" * 32)
    assert (rows.of.kind, set(rows.depth)) == ("rows", {rows.of.id, "version:m/2", "version:m/3"})
    run = history.lineage_of("run", "run-m-1")
    assert set(run.depth) == {"run:run-m-1", "version:m/2", "version:m/3"}, "and what came of what it made"
    assert set(history.lineage_of("commit", "9f" * 20).depth) == {f"commit:{'9f' * 20}-dirty", "version:m/3"}
    for kind, value, error in (
        ("dataset", "ff" * 32, NotFoundError),
        ("dataset", "trips@7", NotFoundError),
        ("run", "run-m-", ConfigurationError),
    ):
        with pytest.raises(error):
            history.lineage_of(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "live", "every"),
    [
        ("dataset", JANUARY, {("m", 3), ("n", 1)}, {("m", 1), ("m", 2), ("m", 3), ("n", 1)}),
        ("dataset", "a1" * 32, {("n", 1)}, {("m", 1), ("n", 1)}),
        ("dataset", SEASONS[:8], {("m", 3)}, {("m", 2), ("m", 3)}),
        ("commit", COMMIT[:7], {("n", 1)}, {("m", 1), ("m", 2), ("n", 1)}),
        ("commit", "9f" * 20, {("m", 3)}, {("m", 3)}),
        ("run", "run-m-1", set(), {("m", 2)}),
        ("package", "scikit-learn==1.8.0", {("n", 1)}, {("m", 1), ("m", 2), ("n", 1)}),
        ("package", "scikit-learn==1.x", {("m", 3), ("n", 1)}, {("m", 1), ("m", 2), ("m", 3), ("n", 1)}),
        ("package", "numpy>2.1", {("m", 3)}, {("m", 3)}),
        ("package", "python", {("m", 3), ("n", 1)}, {("m", 1), ("m", 2), ("m", 3), ("n", 1)}),
        ("package", "log4j", set(), set()),
    ],
)
def test_impact(
    history: RegistryDecisions,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    value: str,
    live: set[tuple[str, int]],
    every: set[tuple[str, int]],
) -> None:
    with history.readers() as session:
        complete = set(session.scalars(select(EnvironmentRow.complete)))
    if complete == {True}:
        monkeypatch.setattr(history._registry, "packages", NO_STORE.__getitem__)
    else:
        monkeypatch.setattr(history._registry, "packages", PACKAGES.__getitem__)
    assert {(use.model, use.version) for use in history.uses(kind, value, only_live=True)} == live
    assert {(use.model, use.version) for use in history.uses(kind, value, only_live=False)} == every


def test_what_cannot_be_meant(history: RegistryDecisions) -> None:
    for kind, value, error, said in (
        ("dataset", "ff" * 32, NotFoundError, "no version was made from dataset"),
        ("dataset", "1a", ConfigurationError, "too short"),
        ("run", "run-m-", ConfigurationError, "may be"),
        ("package", "==1", ConfigurationError, "names no package"),
    ):
        with pytest.raises(error, match=said):
            history.uses(kind, value, only_live=True)


@pytest.fixture
def derived(world: RegistryWorld) -> RegistryDecisions:
    """A model trained on a dataset that was derived from one that was derived from two."""
    rows = iter(range(100))

    def dataset(name: str, *parents: str) -> None:
        with world.readers() as session:
            views = [one.parent for one in sources(session, world.store, parents)]
        table = pa.table({"x": [next(rows)]})
        query = f"SELECT * FROM {', '.join(one.view for one in views)}" if views else None
        create(world.sessions, world.store, Chosen(table, [], query, parents=views), Wish(name, "ann"))

    dataset("trips")
    dataset("weather")
    dataset("trips")  # a second version, of which nothing came
    dataset("both", "trips@1", "weather@1")
    dataset("clean", "both", "w=weather")
    world.model("m")
    promoted(world, "m", None, data=JANUARY, rows="a1" * 32, lock=OLD, more={"dataset": "clean@1"})
    promoted(world, "m", 1, data=SEASONS, rows="b2" * 32, lock=OLD)
    return RegistryDecisions(world.registry, world.readers)


def test_lineage_goes_through_datasets(derived: RegistryDecisions, world: RegistryWorld) -> None:
    found = derived.lineage_of("dataset", "trips@1")
    assert {name for name, depth in found.depth.items() if depth > 0} == {
        "dataset:both@1",
        "dataset:clean@1",
        "version:m/1",
        "version:m/2",
    }
    assert ("dataset:both@1", "dataset:clean@1", "derived from") in {
        (e.source, e.target, e.relation) for e in found.edges
    }
    before = derived.lineage("m", 1)
    assert {"dataset:trips@1", "dataset:weather@1"} <= {name for name, depth in before.depth.items() if depth < 0}
    assert "dataset:trips@2" not in before.depth
    assert [(use.version, use.through) for use in derived.uses("dataset", "weather", only_live=False)] == [
        (1, "trained on clean@1")
    ]
    assert derived.uses("dataset", "trips@1", only_live=True) == [], "the champion was trained on another"
    with pytest.raises(NotFoundError, match="no version"):
        derived.uses("dataset", "trips@2", only_live=False)
    assert set(derived.lineage_of("dataset", "trips@2").depth.values()) == {-1, 0}
    with world.readers() as session:
        data = find(session, "trips@1").data
    assert derived.lineage_of("dataset", data[:12]).of.id == "dataset:trips@1", "by the hash of its rows"
    ET.fromstring(svg(found))


def test_what_a_dataset_spoils_is_flagged(derived: RegistryDecisions) -> None:
    made = derived.flag_made_from(
        "dataset", "trips@1", by=local_principal("ann"), actor="ann", reason="a unit is wrong"
    )
    assert {(one.model, one.version) for one in made} == {("m", 1), ("m", 2)}


def test_the_picture_is_well_formed_whatever_models_are_called() -> None:
    made = [
        lineage.Made(
            model='<b>&"x',
            version=2,
            stage="promoted",
            live=True,
            environment={},
            inputs=[("version", '<b>&"x/1', '<b>&"x 1', "successor of"), ("commit", "abc", "commit abc", "commit")],
        )
    ]
    root = ET.fromstring(svg(lineage.around(made, 'version:<b>&"x/2')))
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert '<b>&"x 2' in texts
    assert "version · champion" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == 2
