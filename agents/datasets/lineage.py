"""Datasets in a lineage: what each was made from."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.datasets.catalog import find, load
from agents.datasets.manifest import Manifest
from agents.registry.lineage import Input, Node, Thing
from schemas.errors import DriftlineError


def known(session: Session, artifacts: ArtifactStore, names: Iterable[str]) -> list[Thing]:
    """Datasets of these names (``NAME@3``) with what they were made from, by name.

    Notes
    -----
    One that this registry does not have (its version was imported) or whose manifest cannot be read is left out: the
    graph then ends with its name.
    """
    found = []
    for name in sorted(set(names)):
        try:
            manifest = load(artifacts, find(session, name).manifest)
        except DriftlineError:
            continue
        found.append(thing(manifest))
    return found


def thing(manifest: Manifest) -> Thing:
    """A dataset as its manifest tells it: files of the archive by topic, the query, or the file that it came as."""
    name = f"{manifest.name}@{manifest.version}"
    inputs: list[Input] = []
    for topic in sorted({file.topic for file in manifest.files}):
        files = [file for file in manifest.files if file.topic == topic]
        label = f"{topic}, {len(files)} file{'s' * (len(files) != 1)}, {sum(file.rows for file in files):,} rows"
        inputs.append(("archive", f"{name}/{topic}", label, "rows of"))
    if manifest.query is not None:
        inputs.append(("query", name, " ".join(manifest.query.split()), "answer to"))
    else:
        inputs.append(("file", manifest.data, f"file {manifest.data[:12]}", "came as"))
    return Thing(node=Node(id=f"dataset:{name}", kind="dataset", label=f"dataset {name}"), inputs=inputs)
