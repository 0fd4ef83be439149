"""API keys: made, listed, revoked, checked. The secret is shown once and kept as its argon2id hash only.

References
----------
RFC 9106 (Argon2); parameters: OWASP Password Storage Cheat Sheet. A secret has 256 random bits: the cost of guessing
one does not rest on them.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from agents.access.logic import INCLUDES, Grant, Principal, checked_grant, checked_name, token_parts, token_text
from agents.access.tables import ApiKeyRow, GrantRow, SessionRow
from agents.registry.ledger import Ledger
from schemas.codec import derived_id
from schemas.errors import ConfigurationError, ConflictError, NotFoundError, UnauthenticatedError
from schemas.events import AccessChanged

if TYPE_CHECKING:
    from argon2 import PasswordHasher

Change = Literal["key-created", "key-revoked", "granted", "withdrawn", "signer-added", "signer-revoked"]


def _now() -> datetime:
    return datetime.now(UTC)


@cache
def hasher() -> PasswordHasher:
    """Argon2id with 19 MiB and two passes: some 40 ms."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


@cache
def _nobody() -> str:
    # An unknown id takes as long as a wrong secret.
    return hasher().hash(secrets.token_urlsafe(32))


class NewKey(NamedTuple):
    """A key that was just made; `token` is seen here and never again."""

    id: str
    token: str


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `failures`: attempts with its id and a wrong secret."""

    id: str
    name: str
    grants: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    failures: int


class Keys:
    """The keys of one installation. Methods take the caller's session; every change is audited in it.

    Parameters
    ----------
    clock : callable
        The system's clock, aware.
    """

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock

    def required(self, session: Session) -> bool:
        """Whether a key was ever made: from then on nothing goes without one, also when all are revoked."""
        return bool(session.scalar(select(exists().where(ApiKeyRow.id.is_not(None)))))

    def create(
        self,
        session: Session,
        name: str,
        role: str,
        *,
        by: Principal,
        pattern: str = "*",
        team: str | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key for `name` and give that name the role.

        Raises
        ------
        ConfigurationError
            Not a name, a role or a pattern; or the first key is not an admin's: nobody could make the next.
        """
        grant = checked_grant(role, pattern, team)
        checked_name(name)
        ledger = Ledger(session, self._clock())
        if not self.required(session) and (grant.role != "admin" or not grant.everywhere):
            raise ConfigurationError(
                "the first key has to be an admin's: from then on only an admin makes keys",
                where="driftline keys create",
                remedy="driftline keys create NAME --role admin",
            )
        secret = secrets.token_urlsafe(32)
        key = base64.b32encode(secrets.token_bytes(10)).decode().lower()
        session.add(
            ApiKeyRow(
                id=key,
                name=name,
                hash=hasher().hash(secret),
                created_by=by.name,
                created_at=ledger.now,
                expires_at=expires_at,
            )
        )
        session.flush()
        tell(session, ledger, by, "key-created", name, str(grant), key)
        self._grant(session, ledger, by, name, grant)
        return NewKey(key, token_text(key, secret))

    def grant(self, session: Session, name: str, grant: Grant, *, by: Principal) -> None:
        """Give `name` a role. Raises `NotFoundError` where nobody is called so."""
        ledger = Ledger(session, self._clock())
        self._known(session, name)
        self._grant(session, ledger, by, name, grant)

    def withdraw(self, session: Session, name: str, grant: Grant, *, by: Principal) -> None:
        """Take a role back.

        Raises
        ------
        NotFoundError
            The name has no such role.
        ConflictError
            No admin would be left.
        """
        ledger = Ledger(session, self._clock())
        found = [row for row in _grant_rows(session, name) if _of(row) == grant]
        if not found:
            raise NotFoundError(
                f"{name} has no {grant}", where="access", remedy="`driftline keys list` shows what there is"
            )
        for row in found:
            session.delete(row)
        session.flush()
        self._refuse_without_admin(session, ledger.now)
        tell(session, ledger, by, "withdrawn", name, str(grant))

    def revoke(self, session: Session, which: str, *, by: Principal) -> list[str]:
        """Revoke a key by its id, or all of a name; returns their ids. Whoever is logged in with one is logged out.

        Raises
        ------
        NotFoundError
        ConflictError
            No admin would be left.
        """
        ledger = Ledger(session, self._clock())
        rows = session.scalars(
            select(ApiKeyRow)
            .where(or_(ApiKeyRow.id == which, ApiKeyRow.name == which), ApiKeyRow.revoked_at.is_(None))
            .order_by(ApiKeyRow.id)
        ).all()
        if not rows:
            raise NotFoundError(
                f"no key {which!r} that is in force", where="access", remedy="`driftline keys list` shows ids and names"
            )
        for row in rows:
            row.revoked_at, row.revoked_by = ledger.now, by.name
            session.execute(delete(SessionRow).where(SessionRow.key == row.id))
            session.flush()
            tell(session, ledger, by, "key-revoked", row.name, "", row.id)
        self._refuse_without_admin(session, ledger.now)
        return [row.id for row in rows]

    def listed(self, session: Session) -> list[KeyInfo]:
        """All keys, by name and age."""
        rows = session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.name, ApiKeyRow.created_at, ApiKeyRow.id)).all()
        return [
            KeyInfo(
                id=row.id,
                name=row.name,
                grants=[str(grant) for grant in grants_of(session, row.name)],
                created_by=row.created_by,
                created_at=row.created_at,
                expires_at=row.expires_at,
                revoked_at=row.revoked_at,
                failures=row.failures,
            )
            for row in rows
        ]

    def principal(self, session: Session, token: str, *, proven: bool = False) -> Principal:
        """Whose key `token` is, with everything that name may.

        Parameters
        ----------
        proven : bool
            The secret was compared a moment ago: only whether the key is still in force is looked up.

        Raises
        ------
        UnauthenticatedError
            Not a key, unknown, wrong, revoked or expired. What is unknown and what is wrong is not told apart, neither
            in words nor in time.
        """
        key, secret = token_parts(token)
        row = session.get(ApiKeyRow, key)
        if not proven and not _matches(row.hash if row is not None else _nobody(), secret):
            row = None
        if row is None:
            raise UnauthenticatedError(
                "the API key is not valid", where="access", remedy="an admin makes another: `driftline keys create`"
            )
        return self.holder(session, row)

    def holder(self, session: Session, row: ApiKeyRow) -> Principal:
        """The principal of a key that was proven. Raises `UnauthenticatedError` where it is not in force."""
        over = row.revoked_at or (row.expires_at if row.expires_at and row.expires_at <= self._clock() else None)
        if over is not None:
            how = "was revoked" if row.revoked_at else "has expired"
            raise UnauthenticatedError(
                f"key {row.id} of {row.name} {how} at {over.isoformat(timespec='seconds')}",
                where="access",
                remedy="an admin makes another: `driftline keys create`",
            )
        grants = grants_of(session, row.name)
        return Principal(row.name, "key", authenticated=True, credential=row.id, grants=grants)

    def failed(self, session: Session, token: str) -> None:
        """Count an attempt with a wrong secret, where the id is one of ours."""
        key, _ = token_parts(token)
        session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key).values(failures=ApiKeyRow.failures + 1))

    # ------------------------------------------------------------------------------------------- inside

    def _grant(self, session: Session, ledger: Ledger, by: Principal, name: str, grant: Grant) -> None:
        if grant in grants_of(session, name):
            return
        session.add(GrantRow(name=name, role=grant.role, pattern=grant.pattern, team=grant.team))
        session.flush()
        tell(session, ledger, by, "granted", name, str(grant))

    def _known(self, session: Session, name: str) -> None:
        from agents.access.tables import SignerRow

        for table in (ApiKeyRow, SignerRow):
            if session.scalar(select(exists().where(table.name == name))):
                return
        raise NotFoundError(
            f"nobody is called {name!r}", where="access", remedy="`driftline keys list`, `driftline principals list`"
        )

    def _refuse_without_admin(self, session: Session, now: datetime) -> None:
        admins = session.scalar(
            select(
                exists().where(
                    ApiKeyRow.revoked_at.is_(None),
                    or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
                    GrantRow.name == ApiKeyRow.name,
                    GrantRow.role.in_([role for role, included in INCLUDES.items() if "admin" in included]),
                    GrantRow.pattern == "*",
                    GrantRow.team.is_(None),
                )
            )
        )
        if not admins:
            raise ConflictError(
                "no admin would be left",
                where="access",
                remedy="make another admin's key first: `driftline keys create NAME --role admin`",
            )


def tell(  # noqa: PLR0917
    session: Session, ledger: Ledger, by: Principal, change: Change, subject: str, detail: str, key: str | None = None
) -> None:
    """Audit and publish a change of who may."""
    event = AccessChanged(
        event_id=derived_id("access", change, subject, key, ledger.next_epoch),
        **ledger.of_all(by),
        change=change,
        subject=subject,
        detail=detail,
        credential_id=key,
    )
    ledger.append(event, None)
    session.flush()


def grants_of(session: Session, name: str) -> tuple[Grant, ...]:
    """What a name may, in the order it was granted."""
    return tuple(_of(row) for row in _grant_rows(session, name))


def _grant_rows(session: Session, name: str) -> list[GrantRow]:
    return list(session.scalars(select(GrantRow).where(GrantRow.name == name).order_by(GrantRow.id)))


def _of(row: GrantRow) -> Grant:
    return Grant(row.role, row.pattern, row.team)


def _matches(hashed: str, secret: str) -> bool:
    from argon2.exceptions import VerificationError

    try:
        return hasher().verify(hashed, secret)
    except VerificationError:
        return False
