"""Before bytes are let into production they are read again: what people agreed to has to be what would be served.

An approval names the hash of what was looked at; whether the store still holds these bytes only reading them tells.
Whoever decides does that before the registry's lock is taken: a large file takes a second, and nobody else has to wait.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.artifacts import MAX_MODEL_BYTES, ArtifactStore
from agents.registry.ledger import Ledger
from agents.registry.tables import VersionRow
from schemas.codec import derived_id
from schemas.errors import ArtifactError
from schemas.events import CommandRefused

READ_AT_ONCE = 8
"""Files that are read side by side: a store far away answers each after some hundredths of a second."""


def refuse_altered(artifacts: ArtifactStore, sha: str, where: str) -> None:
    """Refuse a version whose file is missing, altered or too large. Raises `ArtifactError`."""
    try:
        artifacts.check(sha, max_bytes=MAX_MODEL_BYTES)
    except ArtifactError as error:
        raise ArtifactError(
            f"its file is not what was registered: {error.what} ({error.where})",
            where=where,
            remedy="restore the file from a backup and approve it then, or reject the version",
        ) from error


def altered(artifacts: ArtifactStore, wanted: Collection[tuple[str, str]]) -> dict[str, ArtifactError]:
    """What is wrong with files, by hash; each is read once.

    Parameters
    ----------
    wanted : collection of (str, str)
        Hash, and the version that holds it.
    """
    found: dict[str, ArtifactError] = {}

    def check(one: tuple[str, str]) -> None:
        try:
            refuse_altered(artifacts, *one)
        except ArtifactError as error:
            found[one[0]] = error

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        list(pool.map(check, {sha: (sha, where) for sha, where in wanted}.values()))
    return found


def waiting(session: Session, model: str, version: int) -> str | None:
    """SHA-256 of the file of a version that waits for approval; None: it does not, or there is no such version."""
    mine = (VersionRow.model == model, VersionRow.version == version, VersionRow.stage == "approval-requested")
    return session.scalar(select(VersionRow.artifact).where(*mine))


def tell_altered(  # noqa: PLR0917 - what one event says
    session: Session,
    now: datetime,
    model: str,
    version: int,
    actor: str,
    error: ArtifactError,
    *,
    command: str = "ApproveVersion",
    command_id: str = "",
) -> None:
    """Audit that a version was refused because of its file; it commits with `session`."""
    ledger = Ledger(session, now)
    event = CommandRefused(
        event_id=derived_id("refused", model, version, ledger.next_epoch),
        epoch=ledger.next_epoch,
        at=ledger.now,
        model=model,
        actor=actor[:256],
        command=command,
        command_id=command_id[:128],
        reason="artifact",
        detail=error.what,
        **ledger.who(),
    )
    ledger.append(event, version)
