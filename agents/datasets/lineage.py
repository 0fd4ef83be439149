"""Datasets in a lineage: what each was made from, and what was made from it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from agents.artifacts import ArtifactStore
from agents.datasets.catalog import find, load
from agents.datasets.manifest import Manifest, parse_reference
from agents.datasets.tables import DatasetParentRow, DatasetRow
from agents.registry.lineage import Input, Node, Thing
from schemas.errors import DriftlineError


def known(session: Session, artifacts: ArtifactStore, names: Iterable[str]) -> list[Thing]:
    """Datasets of these names (``NAME@3``) and all that they were made from, with what each was made from, by name.

    Notes
    -----
    One that this registry does not have (its version was imported) or whose manifest cannot be read is left out: the
    graph then ends with its name.
    """
    found: dict[str, Thing] = {}
    waiting, seen = sorted(set(names)), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            manifest = load(artifacts, find(session, name).manifest)
        except DriftlineError:
            continue
        found[name] = thing(manifest)
        waiting += [parent.dataset for parent in manifest.parents]
    return [found[name] for name in sorted(found)]


def derived(session: Session, names: Iterable[str]) -> list[str]:
    """Names (``NAME@3``) of the datasets that were made from these, directly or through others, by name."""
    parent, child = aliased(DatasetRow), aliased(DatasetRow)
    links = (
        select(child.name, child.version)
        .join(DatasetParentRow, DatasetParentRow.child == child.id)
        .join(parent, parent.id == DatasetParentRow.parent)
    )
    given = set(names)
    seen, waiting = set(given), list(given)
    while waiting:
        name, version = parse_reference(waiting.pop())
        rows = session.execute(links.where(parent.name == name, parent.version == version))
        new = {f"{row.name}@{row.version}" for row in rows} - seen
        seen |= new
        waiting += new
    return sorted(seen - given)


def thing(manifest: Manifest) -> Thing:
    """A dataset as its manifest tells it: files of the archive by topic, datasets and the query, or the file it was."""
    name = f"{manifest.name}@{manifest.version}"
    inputs: list[Input] = []
    for topic in sorted({file.topic for file in manifest.files}):
        files = [file for file in manifest.files if file.topic == topic]
        label = f"{topic}, {len(files)} file{'s' * (len(files) != 1)}, {sum(file.rows for file in files):,} rows"
        inputs.append(("archive", f"{name}/{topic}", label, "rows of"))
    for parent in sorted({one.dataset for one in manifest.parents}):
        inputs.append(("dataset", parent, f"dataset {parent}", "derived from"))
    if manifest.query is not None:
        inputs.append(("query", name, " ".join(manifest.query.split()), "answer to"))
    else:
        inputs.append(("file", manifest.data, f"file {manifest.data[:12]}", "came as"))
    return Thing(node=Node(id=f"dataset:{name}", kind="dataset", label=f"dataset {name}"), inputs=inputs)
