"""Types that a version's file may hold beside the defaults: new ones are let in by a person, by name.

A specification widens what may be loaded (`[model] allowed_types`), and whoever may register writes the specification.
What the champion's allows already was agreed to; anything else needs somebody who may approve to name it. Until then
serving does not load the version, and mode ``auto`` does not promote it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.logic import beyond
from agents.registry.tables import ModelRow, VersionRow
from schemas.errors import ConflictError


def allowance(version: VersionRow) -> Mapping[str, Any]:
    """The fields of an event that say what a version's file may hold; none where these are the defaults."""
    return {"allowed_types": list(version.allowed_types)} if version.allowed_types else {}


def champions_types(session: Session, row: ModelRow) -> frozenset[str]:
    """What the champion's file may hold beside the defaults."""
    if row.champion is None:
        return frozenset()
    mine = (VersionRow.model == row.name, VersionRow.version == row.champion)
    return frozenset(session.scalar(select(VersionRow.allowed_types).where(*mine)) or ())


def new_types(session: Session, row: ModelRow, version: VersionRow) -> list[str]:
    """Types that somebody has to agree to before `version` is promoted."""
    return beyond(version.allowed_types, champions_types(session, row)) if version.allowed_types else []


def refuse_unnamed(where: str, new: Iterable[str], named: Collection[str], remedy: str) -> None:
    """Refuse to let in what nobody named. Raises `ConflictError`."""
    if missing := sorted(set(new) - set(named)):
        raise ConflictError(
            f"its file may hold types that nobody agreed to yet: {', '.join(missing)}",
            where=where,
            remedy=f"where you trust them, name each: {remedy} " + " ".join(f"--allow-type {name}" for name in missing),
        )
