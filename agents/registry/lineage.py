"""Lineage: what a version was made from, what was made from it, and which live models a thing went into.

Nothing is kept for it: the graph is read from the versions' own records, which never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.tables import ModelRow, VersionRow
from schemas.errors import ConfigurationError, NotFoundError

LEAST_PREFIX = 6
"""Hexadecimal digits from which a hash may be cut short."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A thing of the graph.

    `kind`: ``version``, ``dataset``, ``rows`` (the training table as it was read), ``archive``, ``code``, ``commit``,
    ``environment``, ``specification`` or ``run``. `live`: a version that is champion now.
    """

    id: str
    kind: str
    label: str
    live: bool = False


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


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A version that something went into, and as what."""

    model: str
    version: int
    live: bool
    stage: str
    through: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A version as far as lineage needs it. `inputs`: (kind, id, label, relation)."""

    model: str
    version: int
    stage: str
    live: bool
    environment: Mapping[str, Any]
    inputs: list[tuple[str, str, str, str]]

    @property
    def node(self) -> Node:
        return Node(
            id=version_id(self.model, self.version),
            kind="version",
            label=f"{self.model} {self.version}",
            live=self.live,
        )


def version_id(model: str, version: int) -> str:
    return f"version:{model}/{version}"


def made(session: Session, model: str | None = None, *, only_live: bool = False) -> list[Made]:
    """Versions of a model, or of all; with `only_live` the champions."""
    columns = (
        *(VersionRow.model, VersionRow.version, VersionRow.stage, VersionRow.parent, VersionRow.run_id),
        *(VersionRow.dataset, VersionRow.code, VersionRow.environment, VersionRow.specification),
        ModelRow.champion,
    )
    statement = select(*columns).join(ModelRow, ModelRow.name == VersionRow.model)
    if model is not None:
        statement = statement.where(VersionRow.model == model)
    if only_live:
        statement = statement.where(ModelRow.champion == VersionRow.version)
    rows = session.execute(statement.order_by(VersionRow.model, VersionRow.version))
    return [
        Made(
            model=row.model,
            version=row.version,
            stage=row.stage,
            live=row.champion == row.version,
            environment=row.environment,
            inputs=_inputs(row),
        )
        for row in rows
    ]


def _inputs(row: Any) -> list[tuple[str, str, str, str]]:
    dataset, code, found = row.dataset, row.code, []

    def add(kind: str, sha: Any, relation: str, label: str = "") -> None:
        if sha:
            found.append((kind, str(sha), label or f"{kind} {str(sha)[:12]}", relation))

    if row.parent is not None:
        add("version", f"{row.model}/{row.parent}", "successor of", f"{row.model} {row.parent}")
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


def around(versions: Iterable[Made], start: str) -> Lineage:
    """Ancestors and descendants of a node.

    Raises
    ------
    NotFoundError
        None of `versions` knows it.
    """
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for one in versions:
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


def find(versions: Iterable[Made], kind: str, sha: str) -> str:
    """Id of the node of a kind whose hash begins with `sha`.

    Raises
    ------
    NotFoundError
        There is none.
    ConfigurationError
        It is too short, or more than one begins so.
    """
    kinds = ("dataset", "rows") if kind == "dataset" else (kind,)
    if len(sha) < LEAST_PREFIX:
        raise ConfigurationError(f"{sha!r} is too short", where=f"--{kind}", remedy=f"give {LEAST_PREFIX} digits")
    found = {
        f"{one}:{name}"
        for made_ in versions
        for one, name, _, _ in made_.inputs
        if one in kinds and name.startswith(sha)
    }
    if not found:
        raise NotFoundError(f"no version was made from {kind} {sha}", where="lineage")
    clean = {name.removesuffix("-dirty") for name in found}
    if len(clean) > 1:
        raise ConfigurationError(
            f"{sha} may be {', '.join(sorted(found))}", where=f"--{kind}", remedy="give more of its digits"
        )
    return min(found)


def uses(versions: Iterable[Made], kind: str, sha: str) -> list[Use]:
    """Versions that a dataset, commit, code tree, environment, specification or run went into, directly."""
    kinds = ("dataset", "rows") if kind == "dataset" else (kind,)
    return [
        Use(model=one.model, version=one.version, live=one.live, stage=one.stage, through=relation)
        for one in versions
        for found, name, _, relation in one.inputs
        if found in kinds and name.startswith(sha)
    ]


def package_uses(versions: Iterable[Made], wanted: str, packages: Callable[[str], Mapping[str, str]]) -> list[Use]:
    """Versions that were trained with a package.

    Parameters
    ----------
    wanted : str
        As pip has it (``scikit-learn==1.9.1``, ``numpy<2``, ``pandas``); ``1.x`` is ``1.*``.
    packages : callable
        From the hash of a lock to version by name.

    Raises
    ------
    ConfigurationError
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(wanted.replace(".x", ".*"))
    except InvalidRequirement as error:
        raise ConfigurationError(
            f"{wanted!r} names no package: {error}", where="--package", remedy="write it as scikit-learn==1.9.1"
        ) from error
    name = requirement.name.lower().replace("_", "-")
    known: dict[str, Mapping[str, str]] = {}
    found = []
    for one in versions:
        lock = one.environment.get("lock")
        if lock is not None and lock not in known:
            known[lock] = packages(lock)
        version = {**one.environment, **known.get(str(lock), {})}.get(name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            found.append(
                Use(model=one.model, version=one.version, live=one.live, stage=one.stage, through=f"{name} {version}")
            )
    return found
