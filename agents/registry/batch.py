"""Approving many at once: each model by itself, a hundred in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import msgspec
from sqlalchemy import select

from agents.access.logic import Principal
from agents.database.engine import Sessions
from agents.registry.ledger import acting_for
from agents.registry.service import Registry
from agents.registry.tables import VersionRow
from schemas.errors import DriftlineError, RegistryError

CHUNK = 100


class Waiting(msgspec.Struct, frozen=True):
    """A version that waits for approval, and the bytes it is about."""

    model: str
    version: int
    artifact: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one approval: the version's stage, or why it was not taken."""

    model: str
    version: int
    stage: str | None = None
    problem: str | None = None
    remedy: str = ""


def waiting(readers: Sessions, pattern: str) -> list[Waiting]:
    """Versions of models whose names match `pattern` that wait for approval, by name."""
    with readers() as session:
        rows = session.execute(
            select(VersionRow.model, VersionRow.version, VersionRow.artifact)
            .where(VersionRow.stage == "approval-requested")
            .order_by(VersionRow.model, VersionRow.version)
        )
        return [Waiting(*row) for row in rows if fnmatchcase(row.model, pattern)]


def approve_all(  # noqa: PLR0917
    registry: Registry,
    listed: list[Waiting],
    by: Principal,
    actor: str,
    comment: str,
    allowed: Callable[[str], bool] = lambda _: True,
) -> Iterator[Outcome]:
    """Approve what was listed, bound to the bytes that were listed; one that is refused does not keep the others.

    Parameters
    ----------
    allowed : callable
        Whether the principal may approve on a model.

    Raises
    ------
    DatabaseUnavailableError
        What was told before is done, the rest is not.
    """
    for start in range(0, len(listed), CHUNK):
        outcomes = []
        with registry.sessions.begin() as session:
            acting_for(session, by)
            for one in listed[start : start + CHUNK]:
                if not allowed(one.model):
                    problem = f"{by.name} lacks the role approver on {one.model}"
                    outcomes.append(Outcome(model=one.model, version=one.version, problem=problem))
                    continue
                try:
                    with session.begin_nested():
                        found = registry.approve(session, one.model, one.version, actor, comment, artifact=one.artifact)
                    outcomes.append(Outcome(model=one.model, version=one.version, stage=found.stage))
                except RegistryError as error:
                    outcomes.append(_refused(one, error))
        yield from outcomes


def _refused(one: Waiting, error: DriftlineError) -> Outcome:
    return Outcome(model=one.model, version=one.version, problem=error.what, remedy=error.remedy)
