"""Impact: which versions a dataset, commit, environment, specification, run or package went into, by index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, and_, bindparam, select
from sqlalchemy.orm import Session

from agents.registry.lineage import inputs
from agents.registry.tables import EnvironmentRow, InputRow, ModelRow, PackageRow, VersionRow
from schemas.errors import ArtifactError, ConfigurationError, NotFoundError

LEAST_PREFIX = 6
"""Characters from which a hash or the id of a run may be cut short."""
PACKAGES = "packages"
_LAST = "\U0010ffff"

Packages = Callable[[str], Mapping[str, str]]
"""From the hash of a lock to version by name."""

# Written once: to write them takes longer than to execute them, and every registration does.
_INPUTS: Any = InputRow.__table__
_ENVIRONMENTS: Any = EnvironmentRow.__table__
_NEW = _INPUTS.insert()
_COMPLETE = select(_ENVIRONMENTS.c.complete).where(_ENVIRONMENTS.c.id == bindparam("id"))


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A version that something went into, and as what."""

    model: str
    version: int
    live: bool
    stage: str
    through: str


def index_version(session: Session, row: VersionRow, packages: Packages) -> None:
    """Let a new version be found by what went into it."""
    environment = msgspec.json.encode(row.environment, order="sorted")
    sha = hashlib.sha256(environment).hexdigest()
    found = {(kind, name, relation) for kind, name, _, relation in inputs(row)}
    found.add((PACKAGES, sha, "environment"))
    mine = {"model": row.model, "version": row.version}
    connection = session.connection()
    things = [{**mine, "kind": kind, "sha": name[:600], "relation": relation} for kind, name, relation in sorted(found)]
    connection.execute(_NEW, things)
    if connection.scalar(_COMPLETE, {"id": sha}):
        return
    known = session.get(EnvironmentRow, sha)
    listed = named(row.environment)
    lock = row.environment.get("lock")
    if known is None:
        known = EnvironmentRow(id=sha, lock=lock, complete=False)
        session.add(known)
        session.flush()
    try:
        locked = packages(lock) if lock is not None else {}
    except ArtifactError:
        locked, known.complete = {}, False  # whoever asks reads it, or is told
    else:
        known.complete = True
    listed |= {_name(name): version for name, version in locked.items()}
    for name, version in listed.items():
        session.merge(PackageRow(environment=sha, name=name[:256], version=version[:256]))


def named(environment: Mapping[str, object]) -> dict[str, str]:
    """Packages that a version's environment names by itself, beside its lock."""
    return {_name(name): value for name, value in environment.items() if name != "lock" and isinstance(value, str)}


class Named(NamedTuple):
    """What versions were made from: one thing, and of a commit its dirty state.

    `derived`: what itself was made from it, and went into versions in its stead.
    """

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    derived: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Its id in a lineage."""
        return f"{self.kinds[0]}:{self.names[0]}"


def named_so(session: Session, kind: str, sha: str) -> Named:
    """The thing whose name is `sha` or begins with it; of a dataset's hash the rows as they were read, where only these
    have it.

    Raises
    ------
    NotFoundError
        No version was made from it.
    ConfigurationError
        It is too short, or more than one begins so.
    """
    kinds = ("dataset", "rows") if kind == "dataset" else (kind,)
    if len(sha) < LEAST_PREFIX and "@" not in sha:
        raise ConfigurationError(f"{sha!r} is too short", where=f"--{kind}", remedy=f"give {LEAST_PREFIX} digits")
    found = _distinct(session, and_(InputRow.kind.in_(kinds), InputRow.sha.in_([sha, f"{sha}-dirty"])))
    if not found:
        found = _distinct(session, and_(InputRow.kind.in_(kinds), InputRow.sha >= sha, InputRow.sha < sha + _LAST))
    if not found:
        raise NotFoundError(f"no version was made from {kind} {sha}", where="lineage")
    if len({name.removesuffix("-dirty") for _, name in found}) > 1:
        some = ", ".join(sorted({name for _, name in found})[:5])
        raise ConfigurationError(f"{sha} may be {some}", where=f"--{kind}", remedy="give more of its digits")
    return Named(tuple(sorted({one for one, _ in found})), tuple(sorted({name for _, name in found})))


def knows(session: Session, kind: str, sha: str) -> bool:
    """Whether a version was made from a thing of a kind whose name begins so."""
    wanted = and_(InputRow.kind == kind, InputRow.sha >= sha, InputRow.sha < sha + _LAST)
    return bool(_distinct(session, wanted))


def uses_of(session: Session, thing: Named, *, only_live: bool) -> list[Use]:
    """Versions that a thing or what was derived from it went into, by model and version."""
    wanted = and_(InputRow.kind.in_(thing.kinds), InputRow.sha.in_([*thing.names, *thing.derived]))
    return _uses(session, wanted, only_live=only_live, derived=frozenset(thing.derived))


def package_uses(session: Session, wanted: str, packages: Packages, *, only_live: bool) -> list[Use]:
    """Versions that were trained with a package, by model and version.

    Parameters
    ----------
    wanted : str
        As pip has it (``scikit-learn==1.9.1``, ``numpy<2``, ``pandas``); ``1.x`` is ``1.*``.
    packages : callable
        For locks that were recorded before packages were indexed.

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
    name = _name(requirement.name)

    def fits(version: str) -> bool:
        return requirement.specifier.contains(version, prereleases=True)

    versions = session.scalars(select(PackageRow.version).where(PackageRow.name == name).distinct())
    fitting = [version for version in versions if fits(version)]
    indexed = (
        select(PackageRow.environment, PackageRow.version)
        .join(EnvironmentRow, EnvironmentRow.id == PackageRow.environment)
        .where(PackageRow.name == name, PackageRow.version.in_(fitting), EnvironmentRow.complete.is_(True))
    )
    through = {row.environment: row.version for row in session.execute(indexed)}
    through |= _unindexed(session, name, packages, fits)
    if not through:
        return []
    found = _uses(session, and_(InputRow.kind == PACKAGES, InputRow.sha.in_(list(through))), only_live=only_live)
    return [msgspec.structs.replace(use, through=f"{name} {through[use.through]}") for use in found]


def _unindexed(session: Session, name: str, packages: Packages, fits: Callable[[str], bool]) -> dict[str, str]:
    """Version by environment, of those whose locks only the artifact store knows."""
    found = {}
    for row in session.scalars(select(EnvironmentRow).where(EnvironmentRow.complete.is_(False))):
        own = session.scalar(
            select(PackageRow.version).where(PackageRow.environment == row.id, PackageRow.name == name)
        )
        locked = {_name(key): version for key, version in packages(row.lock).items()} if row.lock is not None else {}
        version = locked.get(name, own)
        if version is not None and fits(version):
            found[row.id] = version
    return found


def _uses(
    session: Session, wanted: ColumnElement[bool], *, only_live: bool, derived: frozenset[str] = frozenset()
) -> list[Use]:
    """Uses; of packages `through` is the environment."""
    statement: Select[str, int, int | None, str, str, str, str] = (
        select(
            *(InputRow.model, InputRow.version, ModelRow.champion, VersionRow.stage),
            *(InputRow.kind, InputRow.sha, InputRow.relation),
        )
        .join(ModelRow, ModelRow.name == InputRow.model)
        .join(VersionRow, and_(VersionRow.model == InputRow.model, VersionRow.version == InputRow.version))
        .where(wanted)
    )
    if only_live:
        statement = statement.where(ModelRow.champion == InputRow.version)
    found = [
        Use(
            model=row.model,
            version=row.version,
            live=row.champion == row.version,
            stage=row.stage,
            through=row.sha
            if row.kind == PACKAGES
            else f"{row.relation} {row.sha}"
            if row.sha in derived
            else row.relation,
        )
        for row in session.execute(statement)
    ]
    return sorted(found, key=lambda use: (use.model, use.version, use.through))


def _distinct(session: Session, wanted: ColumnElement[bool]) -> list[tuple[str, str]]:
    """Kind and name of some different things that are wanted: enough to tell one from several."""
    rows = session.execute(select(InputRow.kind, InputRow.sha).where(wanted).distinct().limit(20))
    return [(row.kind, row.sha) for row in rows]


def _name(package: str) -> str:
    return package.lower().replace("_", "-")
