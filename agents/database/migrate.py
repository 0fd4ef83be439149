"""Bring a database to the newest schema: Alembic, by itself, one process at a time."""

from __future__ import annotations

from sqlalchemy import Engine

from agents.database.base import Base


def upgrade(engine: Engine) -> None:
    Base.metadata.create_all(engine)
