"""`driftline export` and `driftline import`: a version from one installation to another, with where it came from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore, check_in_child
from agents.registry import bundle
from agents.registry.change import find_version, refuse_other_task, refuse_watched
from agents.registry.consent import champions_types, refuse_unnamed
from agents.registry.logic import beyond
from agents.registry.service import Registry
from agents.registry.tables import AuditRow, ModelRow, VersionRow
from agents.registry.views import VersionInfo
from agents.signing import KeyRing
from schemas.codec import derived_id
from schemas.errors import ArtifactError, ConflictError, TransitionError
from schemas.events import Decision, SubmitCandidate
from schemas.specification import Specification, parse


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did. `decision` None: nothing was decided, the version is registered.

    `rows_only`: it was registered before, and the rows it was trained on came now. `allowed_types`: what its file may
    hold beside the defaults.
    """

    model: str
    version: int
    decision: Decision | None
    reason: str
    artifact: str
    origin: dict[str, Any]
    rows_only: bool = False
    allowed_types: list[str] = []


def export_version(
    registry: Registry,
    session: Session,
    ring: KeyRing,
    path: Path,
    *,
    model: str,
    version: int,
    by: str,
    data: bool,
    table: bytes | None = None,
) -> bundle.Manifest:
    """Write a version as a bundle.

    Parameters
    ----------
    data : bool
        Take the tables it was trained on along: without them it can be served there, not rebuilt.
    table : bytes, optional
        All rows of a version that learnt from the archive (`agents.retraining.rebuild.whole_table`). Their hash is
        recorded in any case, so that they can follow.

    Raises
    ------
    NotFoundError, ArtifactError
    TransitionError
        The version is only watched here.
    """
    info = registry.version(session, model, version)
    if info.external is not None or not info.artifact:
        raise TransitionError("is only watched: there is nothing to export", where=f"{model} version {version}")
    listed: list[tuple[str, Any]] = [
        ("model", info.artifact),
        ("reference", info.reference),
        ("specification", info.specification),
        ("code", info.code.get("artifact")),
        ("diff", info.code.get("diff")),
        ("environment", info.environment.get("lock")),
    ]
    if data:
        listed += [("dataset", info.dataset.get(name)) for name in ("registered", "seasons", "table")]
    files, contents = [], []
    for kind, sha in listed:
        if sha:
            contents.append(registry.artifacts.get(str(sha)))
            registry.artifacts.verify(str(sha), kind)
            files.append(bundle.Content(kind=kind, sha256=str(sha), size=len(contents[-1])))
    if table is not None:
        whole = hashlib.sha256(table).hexdigest()
        info = msgspec.structs.replace(info, dataset={**info.dataset, "table": whole})
        if data:
            contents.append(table)
            files.append(bundle.Content(kind="dataset", sha256=whole, size=len(table)))
    parent = find_version(session, model, info.parent).artifact if info.parent is not None else None
    events = session.scalars(
        select(AuditRow).where(AuditRow.model == model, AuditRow.version == version).order_by(AuditRow.epoch)
    )
    manifest = bundle.Manifest(
        version=info,
        parent_artifact=parent,
        history=[
            {"epoch": row.epoch, "event": row.event, "previous_hash": row.previous_hash, "hash": row.hash}
            for row in events
        ],
        exported_at=datetime.now(UTC),
        exported_by=by,
        driftline=str(info.environment.get("driftline", "")),
        files=files,
    )
    bundle.write(path, ring, manifest, contents)
    return manifest


def import_bundle(
    registry: Registry,
    ring: KeyRing,
    path: Path,
    *,
    by: str,
    submit: bool,
    consented: Collection[str] = (),
) -> Imported:
    """Register the version that a bundle holds, under the next free number.

    Parameters
    ----------
    submit : bool
        Let this installation decide on it, by the specification's approval mode and the verdict that it brings along.
    consented : collection of str
        Types beside the defaults, and beside what the champion's file may hold here, that the model may be opened with.
        Whoever approves agrees to them once more.

    Raises
    ------
    ArtifactError
        The bundle is not of a trusted key, altered or incomplete, or its model does not load and predict in a child
        process. Nothing of it was registered or stored.
    TransitionError
        The model is only watched here.
    ConflictError
        It was imported before and the bundle brings no rows that were missing, the model has another task here, or its
        file may hold types that are not in `consented`.
    """
    where = str(path)
    with path.open("rb") as file:
        manifest, key = bundle.read(file, ring, where)
        read = list(bundle.contents(file, manifest, where))
    info = manifest.version
    text = _complete(info, read, where)
    spec = parse(text, file=f"{where}: driftline.toml")
    if spec.name != info.model:
        raise ArtifactError(f"is of {info.model}, its specification of {spec.name}", where=where)
    if (followed := _rows_that_follow(registry, read, info, key)) is not None:
        return followed
    # Whatever may be refused is refused before anything is stored: what was signed here would stay.
    _refuse_twice(registry, info)
    _refuse_model(registry, spec)
    _refuse_unnamed(registry, spec, consented, where)
    _check_model(next(data for content, data in read if content.sha256 == info.artifact), spec, where)
    for content, data in read:
        registry.artifacts.put(data, content.kind)
    origin = {
        "key": key,
        "version": info.version,
        "registered_at": info.registered_at.isoformat(),
        "registered_by": info.actor,
        "run": info.run_id,
        "parent": info.parent,
        "parent_artifact": manifest.parent_artifact,
        "history": manifest.history,
        "exported_at": manifest.exported_at.isoformat(),
        "exported_by": manifest.exported_by,
    }
    with registry.sessions.begin() as session:
        registry.register_model(session, text, by, at=info.at)
        _refuse_twice_in(session, info)
        version = registry.register_version(
            session,
            info.model,
            artifact=info.artifact,
            reference=info.reference,
            specification_text=text,
            code=info.code,
            dataset=info.dataset,
            environment=info.environment,
            parameters={**info.parameters, "imported": origin},
            seed=info.seed,
            parent=_parent(session, info.model, manifest.parent_artifact),
            run_id=info.run_id,
            report=info.report,
            actor=by,
            at=info.at,
        )
        decision = None
        passed = bool(info.report.get("passed", True))
        reason = f"imported: version {info.version} of the installation with key {key}"
        if submit:
            reason += ", where it " + ("passed" if passed else f"did not pass ({info.reason})")
            command = SubmitCandidate(
                command_id=derived_id("import", info.model, info.artifact, version),
                model=info.model,
                actor=by,
                version=version,
                run_id=info.run_id or "",
                passed=passed,
                reason=reason,
                at=info.at,
            )
            decision = registry.submit(session, command)
    return Imported(
        model=info.model,
        version=version,
        decision=decision,
        reason=reason,
        artifact=info.artifact,
        origin=origin,
        allowed_types=spec.model.allowed_types,
    )


def _complete(info: VersionInfo, read: list[tuple[bundle.Content, bytes]], where: str) -> str:
    """Refuse a bundle whose record names what it does not hold; returns the specification's text."""
    held = {(content.kind, content.sha256) for content, _ in read}
    for needed in (("model", info.artifact), ("reference", info.reference), ("specification", info.specification)):
        if needed not in held:
            raise ArtifactError(f"lacks the {needed[0]} of its version", where=where)
    return next(data for content, data in read if content.sha256 == info.specification).decode()


def _check_model(data: bytes, spec: Specification, where: str) -> None:
    """Open a model in the limited child, from a folder of its own: what is refused was never in the store.

    Notes
    -----
    The folder has a key of its own, too: this installation's signs nothing that was not opened yet.
    """
    with tempfile.TemporaryDirectory(prefix="driftline-import-") as folder:
        scratch = ArtifactStore(str(Path(folder) / "artifacts"))
        sha = scratch.put(data, "model")
        try:
            check_in_child(scratch, sha, features=spec.features, allowed=spec.model.allowed_types)
        except ArtifactError as error:
            raise ArtifactError(error.what, where=f"{where}, model {sha}", remedy=error.remedy) from error


def _refuse_model(registry: Registry, spec: Specification) -> None:
    """Refuse what the model that is here would not take: another task, or versions at all where it is only watched."""
    with registry.sessions() as session:
        row = session.get(ModelRow, spec.name)
        if row is not None:
            refuse_watched(row, "given a trained version")
            refuse_other_task(row, spec)


def _refuse_unnamed(registry: Registry, spec: Specification, consented: Collection[str], where: str) -> None:
    """Another installation's word is not enough to load what is never loaded here."""
    if not spec.model.allowed_types:
        return
    with registry.sessions() as session:
        row = session.get(ModelRow, spec.name)
        agreed = champions_types(session, row) if row is not None else frozenset()
    refuse_unnamed(where, beyond(spec.model.allowed_types, agreed), consented, "`driftline import` with")


def _refuse_twice(registry: Registry, info: VersionInfo) -> None:
    with registry.sessions() as session:
        _refuse_twice_in(session, info)


def _refuse_twice_in(session: Session, info: VersionInfo) -> None:
    mine = (VersionRow.model == info.model, VersionRow.artifact == info.artifact)
    for row in session.scalars(select(VersionRow).where(*mine)):
        if row.reference == info.reference and row.specification == info.specification:
            raise ConflictError(
                "the same model, reference and specification are registered already",
                where=f"{info.model} version {row.version}",
                remedy="nothing is to do: that version is it",
            )


def _rows_that_follow(
    registry: Registry, read: list[tuple[bundle.Content, bytes]], info: VersionInfo, key: str
) -> Imported | None:
    """Keep the rows of a version that was imported from there without them; None where it was not, or none are new."""
    with registry.sessions() as session:
        mine = select(VersionRow).where(VersionRow.model == info.model, VersionRow.artifact == info.artifact)
        row = next((one for one in session.scalars(mine) if "imported" in one.parameters), None)
        if row is None:
            return None
        version, origin = row.version, row.parameters["imported"]
        wanted = {row.dataset.get(name) for name in ("registered", "seasons", "table")} - {None}
    new = [data for content, data in read if content.kind == "dataset" and content.sha256 in wanted]
    new = [data for data in new if not registry.artifacts.exists(hashlib.sha256(data).hexdigest())]
    if not new:
        return None
    for data in new:
        registry.artifacts.put(data, "dataset")
    reason = f"version {version} is it; the rows it was trained on are here now"
    return Imported(
        model=info.model,
        version=version,
        decision=None,
        reason=reason,
        artifact=info.artifact,
        origin={**origin, "rows_from": key},
        rows_only=True,
    )


def _parent(session: Session, model: str, artifact: str | None) -> int | None:
    """The version here that holds the model which the imported one succeeded, where it is here."""
    if artifact is None:
        return None
    mine = (VersionRow.model == model, VersionRow.artifact == artifact)
    return session.scalar(select(VersionRow.version).where(*mine).order_by(VersionRow.version).limit(1))
