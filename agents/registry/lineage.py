"""Lineage: what a version was made from, and what was made from it.

The graph is read from the versions' own records, which never change. `agents.registry.impact` answers the other way
round, from a thing to the versions it went into, over an index of the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.flags import in_force
from agents.registry.tables import ModelRow, VersionRow
from schemas.errors import NotFoundError

Input = tuple[str, str, str, str]
"""What something was made from: (kind, id, label, relation)."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A thing of the graph.

    `kind`: ``version``, ``dataset``, ``rows`` (the training table as it was read), ``archive``, ``query``, ``file``,
    ``code``, ``commit``, ``environment``, ``specification`` or ``run``. `live`: a version that is champion now;
    `flagged`: one that was found faulty, or descends from one.
    """

    id: str
    kind: str
    label: str
    live: bool = False
    flagged: bool = False


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """`source` went into `target`, as what `relation` says."""

    source: str
    target: str
    relation: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the graph around one node. `depth`: by node id, negative for ancestors."""

    of: Node
    nodes: list[Node]
    edges: list[Edge]
    depth: dict[str, int]


class Vertex(Protocol):
    """Whatever was made from something."""

    @property
    def node(self) -> Node: ...

    @property
    def inputs(self) -> Sequence[Input]: ...


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """Something beside versions that was made from something: a dataset."""

    node: Node
    inputs: list[Input]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A version as far as lineage needs it."""

    model: str
    version: int
    stage: str
    live: bool
    environment: Mapping[str, Any]
    inputs: list[Input]
    flagged: bool = False

    @property
    def node(self) -> Node:
        return Node(
            id=version_id(self.model, self.version),
            kind="version",
            label=f"{self.model} {self.version}",
            live=self.live,
            flagged=self.flagged,
        )


def version_id(model: str, version: int) -> str:
    return f"version:{model}/{version}"


def made(session: Session, model: str) -> list[Made]:
    """Versions of a model, oldest first."""
    columns = (
        *(VersionRow.model, VersionRow.version, VersionRow.stage, VersionRow.parent, VersionRow.run_id),
        *(VersionRow.dataset, VersionRow.code, VersionRow.environment, VersionRow.specification),
        ModelRow.champion,
    )
    statement = select(*columns).join(ModelRow, ModelRow.name == VersionRow.model).where(VersionRow.model == model)
    rows = session.execute(statement.order_by(VersionRow.version))
    flagged = {one.version for one in in_force(session, [model])}
    return [
        Made(
            model=row.model,
            version=row.version,
            stage=row.stage,
            live=row.champion == row.version,
            environment=row.environment,
            inputs=inputs(row),
            flagged=row.version in flagged,
        )
        for row in rows
    ]


def datasets_in(versions: Iterable[Made]) -> set[str]:
    """Names (``NAME@3``) of the datasets that versions were trained on."""
    return {name for one in versions for kind, name, _, _ in one.inputs if kind == "dataset" and "@" in name}


def inputs(row: Any) -> list[Input]:
    """What a version was made from, of its row."""
    dataset, code = row.dataset, row.code
    found: list[Input] = []

    def add(kind: str, sha: Any, relation: str, label: str = "") -> None:
        if sha:
            found.append((kind, str(sha), label or f"{kind} {str(sha)[:12]}", relation))

    if row.parent is not None:
        add("version", f"{row.model}/{row.parent}", "successor of", f"{row.model} {row.parent}")
    if name := dataset.get("dataset"):
        add("dataset", name, "trained on", f"dataset {name}")
    add("dataset", dataset.get("registered"), "trained on")
    add("dataset", dataset.get("seasons"), "seasons of")
    add("rows", dataset.get("sha256"), "rows", f"{dataset.get('rows', '?')} rows {str(dataset.get('sha256'))[:12]}")
    if archive := dataset.get("archive"):
        period = f"{str(archive['from'])[:10]} – {str(archive['as_of'])[:10]}"
        add("archive", f"{row.model}/{archive['from']}/{archive['as_of']}", "trained on", f"archive {period}")
    add("code", code.get("tree"), "code")
    add("commit", code.get("commit"), "commit")
    add("environment", row.environment.get("lock"), "environment")
    add("specification", row.specification, "specification")
    add("run", row.run_id, "made by")
    return found


def around(vertices: Iterable[Vertex], start: str) -> Lineage:
    """Ancestors and descendants of a node.

    Raises
    ------
    NotFoundError
        None of `vertices` knows it.
    """
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for one in vertices:
        nodes[one.node.id] = one.node
        for kind, sha, label, relation in one.inputs:
            source = f"{kind}:{sha}"
            nodes.setdefault(source, Node(id=source, kind=kind, label=label))
            edges.append(Edge(source=source, target=one.node.id, relation=relation))
    if start not in nodes:
        raise NotFoundError(f"nothing is known of {start}", where="lineage", remedy="`driftline versions` lists them")
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for edge in edges:
        before.setdefault(edge.target, []).append(edge.source)
        after.setdefault(edge.source, []).append(edge.target)
    depth = {start: 0}
    _walk(start, depth, -1, before)
    _walk(start, depth, +1, after)
    kept = [edge for edge in edges if edge.source in depth and edge.target in depth]
    # What two descendants have in common besides is no ancestor: only the way from and to the start counts.
    kept = [edge for edge in kept if depth[edge.source] < depth[edge.target]]
    return Lineage(of=nodes[start], nodes=[nodes[name] for name in depth], edges=kept, depth=depth)


def _walk(start: str, depth: dict[str, int], step: int, following: Mapping[str, list[str]]) -> None:
    waiting = [start]
    while waiting:
        at = waiting.pop(0)
        for name in following.get(at, []):
            if name not in depth:
                depth[name] = depth[at] + step
                waiting.append(name)
