"""Whether the archive holds what its manifest says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pyarrow.parquet as pq
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.archiving.files import Files
from agents.archiving.tables import ArchiveFileRow, ArchiveRetiredRow


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is not what the manifest says: `what` is ``missing``, ``altered``, ``rows`` or ``overlap``."""

    path: str
    what: str
    detail: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`unnamed`: files that the manifest does not name: of a worker at work, or left behind."""

    files: int
    rows: int
    bytes: int
    problems: list[Problem]
    unnamed: int
    quick: bool


def verify(session: Session, files: Files, *, quick: bool = False) -> Verdict:
    """Look at every file of the manifest.

    Parameters
    ----------
    quick : bool
        Existence and size only; otherwise bytes against their SHA-256, and the rows' offsets against the manifest's.

    Notes
    -----
    Reads the whole archive once, a file at a time.
    """
    row = ArchiveFileRow
    named = list(session.scalars(select(row).order_by(row.topic, row.partition, row.first_offset)))
    known = {file.path for file in named} | set(session.scalars(select(ArchiveRetiredRow.path)))
    problems: list[Problem] = []
    unnamed = 0
    groups: dict[tuple[str, int], list[ArchiveFileRow]] = {}
    for file in named:
        groups.setdefault((file.topic, file.partition), []).append(file)
    for (topic, partition), listed in groups.items():
        there = files.listed(topic, partition)
        unnamed += len(there.keys() - known)
        problems += _overlaps(listed)
        for file in listed:
            size = there.get(file.path)
            if size is None:
                problems.append(Problem(path=file.path, what="missing", detail="it is not there"))
            elif size != file.size_bytes:
                detail = f"{size} bytes, the manifest says {file.size_bytes}"
                problems.append(Problem(path=file.path, what="altered", detail=detail))
            elif not quick:
                problems += _content(files, file)
    return Verdict(
        files=len(named),
        rows=sum(file.rows for file in named),
        bytes=sum(file.size_bytes for file in named),
        problems=problems,
        unnamed=unnamed,
        quick=quick,
    )


def _overlaps(listed: Sequence[ArchiveFileRow]) -> list[Problem]:
    return [
        Problem(path=after.path, what="overlap", detail=f"begins before {before.path} ends")
        for before, after in pairwise(listed)
        if after.first_offset <= before.last_offset
    ]


def _content(files: Files, file: ArchiveFileRow) -> list[Problem]:
    data = files.content(file.path)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        return [Problem(path=file.path, what="altered", detail=f"its bytes hash to {found}")]
    offsets: list[Any] = pq.read_table(io.BytesIO(data), columns=["offset"])["offset"].to_pylist()
    wanted = (file.rows, file.first_offset, file.last_offset)
    if (len(offsets), offsets[0], offsets[-1]) != wanted or len(set(offsets)) != len(offsets):
        return [Problem(path=file.path, what="rows", detail="its offsets are not those of the manifest")]
    return []
