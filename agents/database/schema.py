"""All tables of all rooms, in one place: what migrations are compared with."""

from __future__ import annotations

import importlib
from pathlib import Path

from sqlalchemy import MetaData

from agents.database.base import Base


def metadata() -> MetaData:
    """The metadata with the tables of the inbox, the outbox and every ``agents/<room>/tables.py``."""
    for module in ("inbox", "outbox"):
        importlib.import_module(f"agents.database.{module}")
    for path in sorted(Path(__file__).parent.parent.glob("*/tables.py")):
        importlib.import_module(f"agents.{path.parent.name}.tables")
    return Base.metadata
