"""What versions were and when, kept beside the audit: stages and aliases as rows with a beginning and an end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, bindparam, literal_column, or_, select, union_all
from sqlalchemy.orm import Session

from agents.registry.logic import History, Span, standing, standings
from agents.registry.tables import ModelRow, StandingRow, VersionRow

ALIASES = ("champion", "challenger")
CHUNK = 200

# Written once: with every event, to write them would take longer than to execute them.
_TABLE: Any = StandingRow.__table__
_VERSIONS: Any = bindparam("versions", expanding=True)
_STAND = union_all(
    select(VersionRow.version, VersionRow.stage, literal_column("NULL")).where(
        VersionRow.model == bindparam("model"), VersionRow.version.in_(_VERSIONS)
    ),
    select(_TABLE.c.version, _TABLE.c.standing, _TABLE.c.since).where(
        _TABLE.c.model == bindparam("model"),
        _TABLE.c.until.is_(None),
        or_(_TABLE.c.version.in_(_VERSIONS), _TABLE.c.standing.in_(ALIASES)),
    ),
)
"""Stages of versions as they are, without an epoch, and what stood until now."""
_OVER = (
    _TABLE.update()
    .where(_TABLE.c.model == bindparam("of"), _TABLE.c.standing == bindparam("was"))
    .where(_TABLE.c.version == bindparam("who"), _TABLE.c.until.is_(None))
    .values(until=bindparam("at"))
)
_NEW = _TABLE.insert()


def follow(session: Session, model: ModelRow, versions: Collection[int], epoch: int) -> None:
    """Write down what an event has made of a model's aliases and of `versions`.

    Notes
    -----
    In the transaction of the event `epoch`, after the rows of model and versions were written.
    """
    said = {"model": model.name, "versions": list(versions)}
    connection = session.connection()
    rows = connection.execute(_STAND, said).all()
    before = {(name, version) for version, name, since in rows if since is not None}
    now = standings(model.champion, model.challenger, {version: name for version, name, since in rows if since is None})
    if over := [{"of": model.name, "was": name, "who": number, "at": epoch} for name, number in before - now]:
        connection.execute(_OVER, over)
    if new := [{"standing": name, "model": model.name, "version": who, "since": epoch} for name, who in now - before]:
        connection.execute(_NEW, new)


def in_force(epoch: int) -> ColumnElement[bool]:
    """Rows that held at an epoch."""
    return (StandingRow.since <= epoch) & or_(StandingRow.until.is_(None), StandingRow.until > epoch)


def spans_of(session: Session, models: Sequence[str], epoch: int) -> dict[str, list[Span]]:
    """What versions of some models were and when, as it was known at an epoch."""
    found: dict[str, list[Span]] = {name: [] for name in models}
    statement = select(
        StandingRow.model, StandingRow.standing, StandingRow.version, StandingRow.since, StandingRow.until
    ).where(StandingRow.model.in_(models), StandingRow.since <= epoch)
    for model, name, version, since, until in session.execute(statement):
        found[model].append(Span(name, version, since, None if until is None or until > epoch else until))
    return {name: sorted(spans, key=itemgetter(0, 1, 2)) for name, spans in found.items()}


def standing_at(session: Session, models: Sequence[str], epoch: int) -> dict[str, History]:
    """Aliases and stages of some models as of an epoch."""
    told: dict[str, list[tuple[str, int]]] = {name: [] for name in models}
    for start in range(0, len(models), CHUNK):
        statement = select(StandingRow.model, StandingRow.standing, StandingRow.version).where(
            StandingRow.model.in_(models[start : start + CHUNK]), in_force(epoch)
        )
        for model, name, version in session.execute(statement):
            told[model].append((name, version))
    return {name: standing(rows) for name, rows in told.items()}
