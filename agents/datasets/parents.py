"""Datasets that other datasets are made from: a query reads their rows as views beside those of the archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa
from sqlalchemy.orm import Session

from agents.archiving.logic import ARCHIVED
from agents.artifacts import ArtifactStore
from agents.datasets.catalog import find, load
from agents.datasets.manifest import Parent
from agents.datasets.rows import rows_of
from agents.subjects.keys import SubjectKeys
from schemas.errors import ConfigurationError

_VIEW: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN: Final = frozenset({"joined", *(topic.replace("-", "_") for topic in ARCHIVED)})


class Source(NamedTuple):
    """A dataset that a query may read."""

    parent: Parent
    rows: pa.Table
    as_of: datetime | None
    """Event time up to which its own query saw; None: it did not say."""
    visible: frozenset[str] | None
    """Of people's rows: the columns that are not encrypted."""


def sources(
    session: Session, artifacts: ArtifactStore, references: Sequence[str], keys: SubjectKeys | None = None
) -> list[Source]:
    """The datasets of ``NAME``, ``NAME@3`` or ``view=NAME@3``, each under a name of its own.

    Raises
    ------
    ConfigurationError
        A view cannot be called so.
    NotFoundError, ArtifactError, StateError
        There is no such dataset, or its rows cannot be read.
    """
    found: list[Source] = []
    for reference in references:
        given, _, name = reference.rpartition("=")
        row = find(session, name)
        view = given or re.sub(r"\W", "_", row.name)
        if not _VIEW.fullmatch(view) or view.lower() in {*_TAKEN, *(one.parent.view.lower() for one in found)}:
            raise ConfigurationError(
                f"a view cannot be called {view!r}, or another one is",
                where=f"--from {reference}",
                remedy=f"choose its name: --from rows={row.name}@{row.version}",
            )
        manifest = load(artifacts, row.manifest)
        rows = rows_of(artifacts, row.data, keys)
        sealed = manifest.sealed
        visible = None if sealed is msgspec.UNSET else frozenset(rows.column_names) - frozenset(sealed)
        parent = Parent(dataset=f"{row.name}@{row.version}", view=view, data=row.data, rows=rows.num_rows)
        as_of = None if manifest.as_of is None else datetime.fromisoformat(manifest.as_of)
        found.append(Source(parent, rows, as_of, visible))
    return found


def reached(found: Sequence[Source], as_of: datetime | None, *, alone: bool) -> datetime | None:
    """Up to which event time the rows know, where that can be said.

    Parameters
    ----------
    as_of : datetime, optional
        What was asked for.
    alone : bool
        Nothing of the archive is read beside them.

    Raises
    ------
    ConfigurationError
        One of them knows what happened later than that.
    """
    for one in found:
        if as_of is not None and one.as_of is not None and one.as_of > as_of:
            raise ConfigurationError(
                f"{one.parent.dataset} holds what was known at {one.as_of:%Y-%m-%dT%H:%M:%SZ}, which is later",
                where="--as-of",
                remedy="ask for that moment or a later one, or take an earlier version",
            )
    if as_of is not None or not alone or not found:
        return as_of
    known = [one.as_of for one in found if one.as_of is not None]
    return max(known) if len(known) == len(found) else None
