"""Which team a model belongs to: its specification says so."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.registry.tables import ModelRow, SpecificationRow
from schemas.specification import parse


def team_of(session: Session, model: str, default: str = "") -> str:
    """The team of a model, empty where it has none; `default` where it is not registered."""
    found = session.execute(
        select(SpecificationRow.sha, SpecificationRow.text)
        .join(ModelRow, ModelRow.specification == SpecificationRow.sha)
        .where(ModelRow.name == model)
    ).first()
    return _team(found.text) if found is not None else default


def visible(session: Session, principal: Principal, models: Iterable[str]) -> set[str]:
    """Those of `models` that `principal` may look at."""
    if principal.everywhere("viewer"):
        return set(models)
    teams = principal.asks_teams
    return {model for model in models if principal.may("viewer", model, team_of(session, model) if teams else "")}


@lru_cache(maxsize=1024)
def _team(text: str) -> str:
    return parse(text).model.team
