"""Datasets of files with people's rows: encrypted by the specification, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agents.access.logic import local_principal
from agents.database.migrate import upgrade
from agents.datasets.build import Chosen, Wish, create, given, rows_of
from agents.datasets.catalog import find, load
from agents.datasets.private import SUBJECT
from agents.subjects.erasure import erase
from agents.subjects.keys import SubjectKeys
from agents.subjects.master import Master
from agents.subjects.rows import Losses
from schemas.errors import ConfigurationError
from schemas.specification import parse
from tests.support.registries import RegistryWorld, spec_text

SECRET = Master(b"m" * 32)
PLAIN = spec_text("plain")
PRIVATE = spec_text("m").replace('label = "y"\n', 'label = "y"\nsubject = "who"\n')
ROWS = {"id": [1, 2, 3], "t": ["2020-01-01"] * 3, "who": ["Ann Example", "Bob", "Ann Example"], "x": [5, 6, 7]}


@pytest.fixture
def world(tmp_path: Path) -> RegistryWorld:
    made = RegistryWorld(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    upgrade(made.engine)
    with made.sessions.begin() as session:
        made.registry.register_model(session, PRIVATE, "ann")
        made.registry.register_model(session, PLAIN, "ann")
    return made


def keys_of(world: RegistryWorld) -> SubjectKeys:
    return SubjectKeys(lambda: (world.sessions, world.readers), lambda: SECRET)


def chosen(world: RegistryWorld, rows: dict[str, Any], text: str | None, **more: Any) -> Chosen:
    spec = None if text is None else parse(text)
    with world.sessions() as session:
        return given(session, pa.table(rows), "t.csv", spec=spec, keys=keys_of(world), **more)


def files(world: RegistryWorld) -> bytes:
    return b"".join(path.read_bytes() for path in (world.folder / "artifacts").rglob("*") if path.is_file())


def test_rows_of_a_file_are_sealed_and_go_with_their_subject(world: RegistryWorld) -> None:
    keys = keys_of(world)
    manifest = create(world.sessions, world.store, chosen(world, ROWS, PRIVATE), Wish("d", "ada"), keys)
    assert manifest.sealed == ["who", "x"]
    assert b"Ann Example" not in files(world)
    assert rows_of(world.store, manifest.data, keys).drop_columns([SUBJECT]).to_pydict() == ROWS
    written = rows_of(world.store, manifest.data, keys).drop_columns(["who"]).to_pydict()
    erase(world.sessions, SECRET, world.store, "Ann Example", local_principal("ann"))
    losses, fresh = Losses(), keys_of(world)
    assert rows_of(world.store, manifest.data, fresh, losses)["who"].to_pylist() == ["Bob"]
    assert losses.erased == 2
    # Rows that were written out before and come back without the subject's column, but with the key's id.
    assert chosen(world, written, PRIVATE).table["x"].to_pylist() == [6]
    with world.readers() as session:
        assert load(world.store, find(session, "d").manifest).model == "m"


@pytest.mark.parametrize(
    ("rows", "text", "words"),
    [
        (ROWS, None, "m names a subject, and nothing says whether"),
        ({"id": [1], "x": [5]}, PRIVATE, "no column 'who'"),
        ({"id": [1, 2], "who": ["Ann", None]}, PRIVATE, "1 rows do not say whose"),
        ({"id": [1], SUBJECT: [None]}, PRIVATE, "1 rows do not say whose"),
    ],
)
def test_rows_that_nobody_could_erase_are_refused(
    world: RegistryWorld, rows: dict[str, Any], text: str | None, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        chosen(world, rows, text)


@pytest.mark.parametrize(("text", "more"), [(PLAIN, {}), (None, {"aggregate": True}), (PRIVATE, {"aggregate": True})])
def test_rows_about_nobody_are_kept_as_they_are(world: RegistryWorld, text: str | None, more: dict[str, Any]) -> None:
    found = chosen(world, ROWS, text, **more)
    assert (found.visible, found.table.to_pydict()) == (None, ROWS)
