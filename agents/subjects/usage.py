"""Which versions learnt from whose rows: an artifact of each version lists the ids of its subjects' keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Text, select, type_coerce
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.registry.tables import VersionRow
from agents.subjects.sealing import ID_BYTES
from schemas.errors import ArtifactError

KIND = "subjects"
FIELD = "subjects"
"""Member of a version's dataset that names the artifact."""


def record(artifacts: ArtifactStore, ids: Iterable[bytes]) -> dict[str, Any]:
    """What a version's dataset says of the subjects whose rows it holds; nothing where there are none."""
    listed = sorted(set(ids))
    return {FIELD: {"keys": artifacts.put(b"".join(listed), KIND), "count": len(listed)}} if listed else {}


def trained_on(session: Session, artifacts: ArtifactStore, id: bytes) -> Iterator[tuple[str, int]]:
    """Versions that learnt from rows under a key, by model and number.

    Notes
    -----
    Cost: one look at every version's record, one file for each set of subjects that differs.

    Raises
    ------
    ArtifactError
        A list is altered. One that is gone is passed over: its version is named, for it may have held the subject.
    """
    statement = (
        select(VersionRow.model, VersionRow.version, VersionRow.dataset)
        .where(type_coerce(VersionRow.dataset, Text).like(f'%"{FIELD}"%'))
        .order_by(VersionRow.model, VersionRow.version)
    )
    known: dict[str, bool] = {}
    for model, version, dataset in session.execute(statement):
        listed = dataset.get(FIELD)
        if not isinstance(listed, dict):
            continue
        sha = str(listed["keys"])
        if sha not in known:
            known[sha] = not artifacts.exists(sha) or _holds(artifacts.get(sha), id)
        if known[sha]:
            yield model, version


def _holds(data: bytes, id: bytes) -> bool:
    if len(data) % ID_BYTES:
        raise ArtifactError("is no list of subjects", where=KIND)
    at = data.find(id)
    while at >= 0 and at % ID_BYTES:
        at = data.find(id, at + 1)
    return at >= 0
