"""Models that are trained and served elsewhere: they are registered without an artifact, their versions appear.

What predictions call a version is its external name. A version here is such a name together with the specification and
the reference it is compared with: it never changes, so a name that gets another reference gets another number, and what
was predicted before keeps the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agents.registry.change import Change, begin_model, find_model, refuse_other_task
from agents.registry.flags import champion_changed
from agents.registry.ledger import Ledger
from agents.registry.logic import number_for
from agents.registry.service import Registry
from agents.registry.tables import ModelRow, VersionRow
from schemas.codec import encode
from schemas.durations import parse_duration
from schemas.errors import ConflictError, NotFoundError, TransitionError
from schemas.events import ObserveVersion, VersionObserved
from schemas.specification import parse
from schemas.topics import MOST_EXTERNAL_VERSIONS

FIRST_SEEN = "seen in predictions"


def register(
    registry: Registry,
    session: Session,
    spec_text: str,
    actor: str,
    *,
    reference: str | None = None,
    window: str | None = None,
    external: str | None = None,
    at: datetime | None = None,
) -> list[int]:
    """Register a model that is only watched, or give one another specification or reference.

    Parameters
    ----------
    reference : str, optional
        SHA-256 of compiled reference statistics in the artifact store.
    window : str, optional
        How long to learn the reference instead; again, where there is one already.
    external : str, optional
        The version that the reference is of; default: the newest, and all that appear later.
    at : datetime, optional
        Event time of the reference.

    Returns
    -------
    list of int
        Numbers of the versions that are compared with it from now on; none where no version has appeared yet.

    Raises
    ------
    SpecificationError
    ConflictError
        The model is registered as one that is trained here, or with another task.
    NotFoundError
        No such version has appeared.
    """
    spec = parse(spec_text)
    sha = registry.artifacts.put(spec_text.encode(), "specification")
    ledger = Ledger(session, registry.now())
    registry.add_specification(session, sha, spec_text)
    row = session.get(ModelRow, spec.name)
    if row is None:
        if external is not None:
            raise NotFoundError(f"no version {external!r} of {spec.name} has appeared", where="registry")
        row = ModelRow(
            name=spec.name,
            task=spec.task,
            specification=sha,
            champion=None,
            challenger=None,
            epoch=ledger.next_epoch,
            actor=actor,
            registered_at=ledger.now,
            monitored=True,
            reference=reference,
            reference_window=window,
        )
        begin_model(session, ledger, row, at)
        registry.take_specification(Change(session, ledger, row), sha, spec, actor, at, new=True)
        return []
    if not row.monitored:
        raise ConflictError(
            "is trained here already",
            where=f"model {spec.name}",
            remedy="choose another [model] name for the one that is only watched",
        )
    refuse_other_task(row, spec)
    change = Change(session, ledger, row)
    registry.take_specification(change, sha, spec, actor, at, new=False)
    if window is not None:
        row.reference, row.reference_window, row.learning_from_ms = None, window, None
    elif external is None:
        row.reference, row.learning_from_ms = reference, None
    names = _concerned(session, row, external)
    reason = "a reference is to be learnt" if window is not None else "given a reference"
    made = [_add(registry, change, name, reference, actor, at, reason) for name in names]
    if made:
        change.publish_state()
    return made


def _concerned(session: Session, row: ModelRow, external: str | None) -> list[str]:
    """Names of versions that a new reference is for."""
    if external is None:
        newest = _newest(session, row.name)
        return [newest.external] if newest is not None and newest.external is not None else []
    if current(session, row.name, external) is None:
        raise NotFoundError(
            f"no version {external!r} of {row.name} has appeared",
            where="registry",
            remedy=f"`driftline versions {row.name}` lists those that have",
        )
    return [external]


def observe(registry: Registry, session: Session, command: ObserveVersion) -> int:
    """Give a version its number; the one it has where it is known.

    Raises
    ------
    NotFoundError
    TransitionError
        The model is trained here: its versions are registered, not seen.
    ConflictError
        The model has too many versions.
    """
    change = Change.of(session, command.model, registry.now())
    if not change.row.monitored:
        raise TransitionError("is trained here, its versions do not just appear", where=f"model {command.model}")
    known = current(session, command.model, command.external)
    if known is not None:
        return known.version
    count = session.scalar(
        select(func.count(func.distinct(VersionRow.external))).where(VersionRow.model == command.model)
    )
    if (count or 0) >= MOST_EXTERNAL_VERSIONS:
        raise ConflictError(
            f"has {count} versions, no more are taken",
            where=f"model {command.model}",
            remedy="send the name of a version, not one for each prediction",
        )
    number = _add(
        registry, change, command.external, change.row.reference, command.actor, command.at.astimezone(UTC), FIRST_SEEN
    )
    change.publish_state()
    return number


def learning(session: Session) -> list[ModelRow]:
    """Models whose reference is still to be learnt."""
    statement = select(ModelRow).where(
        ModelRow.monitored.is_(True), ModelRow.reference.is_(None), ModelRow.reference_window.is_not(None)
    )
    return list(session.scalars(statement.order_by(ModelRow.name)))


def is_watched(session: Session, model: str) -> bool:
    """Whether the model is registered and only watched."""
    return bool(session.scalar(select(ModelRow.monitored).where(ModelRow.name == model)))


def began(session: Session, model: str, first_ms: int) -> None:
    """Note from which event time on the reference of `model` is learnt, once."""
    row = find_model(session, model)
    if row.learning_from_ms is None:
        row.learning_from_ms = first_ms


def learning_span_ms(row: ModelRow) -> int:
    """How much event time the reference is learnt from."""
    assert row.reference_window is not None
    return parse_duration(row.reference_window, where="reference_window")


def learnt(
    registry: Registry, session: Session, model: str, reference: str, *, actor: str, at: datetime, reason: str
) -> list[int]:
    """A reference was learnt: versions that have none are compared with it from now on; returns their new numbers.

    Raises
    ------
    ConflictError
        Somebody gave the model a reference meanwhile.
    """
    change = Change.of(session, model, registry.now())
    if change.row.reference is not None or change.row.reference_window is None:
        raise ConflictError("has a reference meanwhile", where=f"model {model}")
    change.row.reference = reference
    names = session.scalars(
        select(VersionRow.external).where(VersionRow.model == model).order_by(VersionRow.version)
    ).all()
    made = []
    # Every name whose newest number has no reference, the newest last: it stays the one in use.
    waiting = [name for name in dict.fromkeys(names) if name is not None and _unlearnt(session, model, name)]
    for name in sorted(waiting, key=lambda name: _number(session, model, name)):
        made.append(_add(registry, change, name, reference, actor, at, reason))
    if made:
        change.publish_state()
    return made


def current(session: Session, model: str, external: str) -> VersionRow | None:
    """The newest number of an external name."""
    statement = (
        select(VersionRow)
        .where(VersionRow.model == model, VersionRow.external == external)
        .order_by(VersionRow.registered_epoch.desc())
        .limit(1)
    )
    return session.scalars(statement).first()


def external_name(session: Session, model: str, version: int) -> str | None:
    """What a version is called elsewhere; None for those that are made here."""
    return session.scalar(select(VersionRow.external).where(VersionRow.model == model, VersionRow.version == version))


def _unlearnt(session: Session, model: str, external: str) -> bool:
    row = current(session, model, external)
    return row is not None and bool(row.dataset.get("learning"))


def _number(session: Session, model: str, external: str) -> int:
    row = current(session, model, external)
    return row.version if row is not None else 0


def _newest(session: Session, model: str) -> VersionRow | None:
    statement = (
        select(VersionRow).where(VersionRow.model == model).order_by(VersionRow.registered_epoch.desc()).limit(1)
    )
    return session.scalars(statement).first()


def _add(  # noqa: PLR0917 - all of one version
    registry: Registry,
    change: Change,
    external: str,
    reference: str | None,
    actor: str,
    at: datetime | None,
    reason: str,
) -> int:
    """A version with the model's specification; without a reference it is counted, and judged by nothing yet."""
    # The control plane starts without numpy where no model is only watched.
    from streams.reference import unlearnt_reference

    session, row = change.session, change.row
    taken: Sequence[int] = session.scalars(select(VersionRow.version).where(VersionRow.model == row.name)).all()
    number = number_for(external, taken)
    spec = parse(registry.specification_text(session, row.specification))
    learning = reference is None
    sha = reference or registry.artifacts.put(encode(unlearnt_reference(spec)), "reference")
    version = VersionRow(
        model=row.name,
        version=number,
        artifact="",
        reference=sha,
        specification=row.specification,
        code={},
        dataset={"learning": True} if learning else {},
        environment={},
        parameters={},
        seed=0,
        parent=row.champion,
        run_id=None,
        report={},
        actor=actor,
        at=at or change.ledger.now,
        registered_at=change.ledger.now,
        registered_epoch=change.ledger.next_epoch,
        stage="observed",
        decision=None,
        reason=reason,
        promoted_at=None,
        previous=row.champion,
        external=external,
    )
    record = change.add(version, registry.packages)
    parent, row.champion = row.champion, number
    change.emit(
        VersionObserved,
        actor,
        at,
        version=number,
        external=external,
        parent=parent,
        reference=sha,
        reason=reason,
        record=record,
    )
    champion_changed(change)
    return number
