"""Deciding on many at once: each model by itself, a hundred in a transaction; one that is refused keeps no other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from agents.access.logic import Principal
from agents.database.engine import Sessions
from agents.registry.change import find_version
from agents.registry.flags import in_force, sound_before
from agents.registry.intact import altered, tell_altered
from agents.registry.ledger import acting_for
from agents.registry.logic import beyond
from agents.registry.search import Search, model_conditions
from agents.registry.service import Registry
from agents.registry.tables import ModelRow, VersionRow
from agents.registry.views import VersionInfo
from schemas.errors import ConflictError, RegistryError

CHUNK = 100
What = Literal["approve", "reject", "rollback"]


class Chosen(msgspec.Struct, frozen=True):
    """A version that is to be decided on, and the bytes it is about; of a roll-back the champion, and `to` which.

    `new_types`: what its file may hold beside the defaults and the champion's may not.
    """

    model: str
    version: int
    artifact: str
    to: int | None = None
    new_types: list[str] = []


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one decision: the version's stage, or why it was not taken.

    Of a roll-back `version` is the one that was brought back. While nothing is done yet `stage` is what the version is,
    and `new_types` what has to be agreed to by name.
    """

    model: str
    version: int
    stage: str | None = None
    problem: str | None = None
    remedy: str = ""
    new_types: list[str] = []


def chosen(readers: Sessions, what: What, search: Search) -> list[Chosen]:
    """What a decision on many would be about, by model.

    Parameters
    ----------
    what : {"approve", "reject", "rollback"}
        Approvals and rejections are of versions that wait, roll-backs of models that have a champion of their own.
    search : Search
        Pattern, tags, owner and team of the models.
    """
    with readers() as session:
        if what == "rollback":
            return [one for one in _champions(session, search) if fnmatchcase(one.model, search.match)]
        champion = aliased(VersionRow)
        rows = session.execute(
            select(VersionRow.model, VersionRow.version, VersionRow.artifact, VersionRow.allowed_types)
            .add_columns(champion.allowed_types.label("agreed"))
            .join(ModelRow, ModelRow.name == VersionRow.model)
            .outerjoin(champion, and_(champion.model == ModelRow.name, champion.version == ModelRow.champion))
            .where(VersionRow.stage == "approval-requested", *model_conditions(session, VersionRow.model, search))
            .order_by(VersionRow.model, VersionRow.version)
        )
        return [
            Chosen(row.model, row.version, row.artifact, new_types=beyond(row.allowed_types, row.agreed or ()))
            for row in rows
            if fnmatchcase(row.model, search.match)
        ]


def _champions(session: Session, search: Search) -> list[Chosen]:
    rows = session.execute(
        select(ModelRow.name, VersionRow.version, VersionRow.artifact, VersionRow.previous)
        .join(VersionRow, and_(VersionRow.model == ModelRow.name, VersionRow.version == ModelRow.champion))
        .where(ModelRow.monitored.is_(False), *model_conditions(session, ModelRow.name, search))
        .order_by(ModelRow.name)
    )
    found = [Chosen(*row) for row in rows]
    flagged = {(one.model, one.version) for one in in_force(session, [one.model for one in found])}
    return [
        msgspec.structs.replace(one, to=sound_before(session, one.model, find_version(session, one.model, one.version)))
        if (one.model, one.to) in flagged
        else one
        for one in found
    ]


def listed(found: list[Chosen], what: What) -> list[Outcome]:
    """What would be decided on, as it is told before anything is done."""
    if what != "rollback":
        return [
            Outcome(model=one.model, version=one.version, stage="approval-requested", new_types=one.new_types)
            for one in found
        ]
    return [
        Outcome(model=one.model, version=one.version, problem="has no predecessor")
        if one.to is None
        else Outcome(model=one.model, version=one.to, stage=f"instead of {one.version}")
        for one in found
    ]


def confirmed(found: list[Chosen], count: int) -> list[Chosen]:
    """What is to be rolled back, where it is as many as somebody saw.

    Raises
    ------
    ConflictError
        It is not.
    """
    possible = [one for one in found if one.to is not None]
    if len(possible) != count:
        raise ConflictError(
            f"{len(possible)} models would be rolled back, {count} were confirmed",
            where="confirm",
            remedy="look at the list again (without the confirmation), nothing was done",
        )
    return possible


def decide_all(  # noqa: PLR0917
    registry: Registry,
    what: What,
    found: list[Chosen],
    by: Principal,
    actor: str,
    reason: str,
    allowed: Callable[[str], bool] = lambda _: True,
    consented: Collection[str] = (),
) -> Iterator[Outcome]:
    """Decide on what was chosen, bound to the bytes (or the champion) of then; what became of each.

    Parameters
    ----------
    reason : str
        Of approvals the comment.
    allowed : callable
        Whether the principal may decide on a model.
    consented : collection of str
        Of approvals: types beside the defaults that are agreed to.

    Raises
    ------
    DatabaseUnavailableError
        What was told before is done, the rest is not.
    """
    for start in range(0, len(found), CHUNK):
        outcomes = []
        some = found[start : start + CHUNK]
        read = [(one.artifact, f"{one.model} version {one.version}") for one in some if allowed(one.model)]
        problems = altered(registry.artifacts, read) if what == "approve" else {}
        with registry.sessions.begin() as session:
            acting_for(session, by)
            for one in some:
                if not allowed(one.model):
                    problem = f"{by.name} lacks the role approver on {one.model}"
                    outcomes.append(Outcome(model=one.model, version=one.version, problem=problem))
                    continue
                if (problem_of := problems.get(one.artifact)) is not None:
                    tell_altered(session, registry.now(), one.model, one.version, actor, problem_of)
                    told = Outcome(
                        model=one.model, version=one.version, problem=problem_of.what, remedy=problem_of.remedy
                    )
                    outcomes.append(told)
                    continue
                try:
                    with session.begin_nested():
                        done = _decide(registry, session, what, one, actor, reason, consented)
                    outcomes.append(Outcome(model=one.model, version=done.version, stage=done.stage))
                except RegistryError as error:
                    told = Outcome(model=one.model, version=one.version, problem=error.what, remedy=error.remedy)
                    outcomes.append(told)
        yield from outcomes


def _decide(  # noqa: PLR0917
    registry: Registry,
    session: Session,
    what: What,
    one: Chosen,
    actor: str,
    reason: str,
    consented: Collection[str],
) -> VersionInfo:
    if what == "approve":
        return registry.approve(
            *(session, one.model, one.version, actor, reason),
            artifact=one.artifact,
            consented=consented,
            intact=one.artifact,
        )
    if what == "reject":
        return registry.reject(session, one.model, one.version, actor, reason)
    return registry.rollback(session, one.model, one.to, actor=actor, reason=reason, expected=one.version)
