"""Keys that sign commands: whose they are, and what a command's signer may ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from agents.access.keys import Keys, grants_of, tell
from agents.access.logic import Grant, Principal, Role, checked_name, refuse
from agents.access.signatures import check_signature, read_signature
from agents.access.tables import SignerRow
from agents.access.teams import team_of
from agents.registry.ledger import Ledger
from agents.signing import KeyRing, public_key_id
from schemas.errors import ConfigurationError, ConflictError, DecodeError, NotFoundError
from schemas.events import (
    AnyRegistryCommand,
    EndProbation,
    ObserveVersion,
    RetrainRequest,
    RollBackModel,
    SubmitCandidate,
)
from streams.kafka.records import Record

SYSTEM = "system"
"""Whose keys the agents sign with. They submit, observe, roll back and end probations; they never approve."""

BY_SYSTEM = (SubmitCandidate, ObserveVersion, RollBackModel, EndProbation)
NEEDS: dict[type, Role] = {SubmitCandidate: "admin", ObserveVersion: "producer"}
"""What others need; for the rest of the commands: approver. A submission carries the gate's verdict."""


def _now() -> datetime:
    return datetime.now(UTC)


class SignerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signs."""

    id: str
    name: str
    grants: list[str]
    note: str
    added_by: str
    added_at: datetime
    revoked_at: datetime | None


class Signers:
    """The signing keys of one installation. Methods take the caller's session; every change is audited in it.

    Parameters
    ----------
    clock : callable
        The system's clock, aware.
    """

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock

    def add(
        self, session: Session, name: str, pem: bytes, *, by: Principal, grant: Grant | None = None, note: str = ""
    ) -> str:
        """Believe what a key signs as `name`'s; returns the key's id.

        Raises
        ------
        ConfigurationError
            No Ed25519 public key, no name, or a person without a role.
        ConflictError
            The key is known.
        """
        checked_name(name)
        public = raw_public(pem)
        if (grant is None) != (name == SYSTEM):
            raise ConfigurationError(
                "the agents' rights are fixed" if grant is not None else f"{name} needs a role",
                where="--role",
                remedy=f"--role belongs to everybody but {SYSTEM!r}",
            )
        ledger = Ledger(session, self._clock())
        key = public_key_id(public)
        if session.get(SignerRow, key) is not None:
            raise ConflictError(f"key {key} is known", where="access", remedy="`driftline principals list` shows it")
        session.add(SignerRow(id=key, name=name, public=public, note=note, added_by=by.name, added_at=ledger.now))
        session.flush()
        tell(session, ledger, by, "signer-added", name, str(grant) if grant is not None else "", key)
        if grant is not None:
            Keys(self._clock).grant(session, name, grant, by=by)
        return key

    def trust_own(self, session: Session, ring: KeyRing) -> None:
        """Believe the key of this home's agents, which is made where there is none. One that was revoked stays so."""
        pem = ring.public_pem()
        public = raw_public(pem)
        if session.get(SignerRow, public_key_id(public)) is None:
            agents = Principal(SYSTEM, "system", authenticated=False)
            self.add(session, SYSTEM, pem, by=agents, note=f"agents of {ring.folder.parent.parent}")

    def revoke(self, session: Session, which: str, *, by: Principal) -> list[str]:
        """Believe a key, or all of a name, no longer; returns ids. Raises `NotFoundError`."""
        ledger = Ledger(session, self._clock())
        rows = session.scalars(
            select(SignerRow)
            .where(or_(SignerRow.id == which, SignerRow.name == which), SignerRow.revoked_at.is_(None))
            .order_by(SignerRow.id)
        ).all()
        if not rows:
            raise NotFoundError(
                f"no key {which!r} that is believed", where="access", remedy="`driftline principals list` shows them"
            )
        for row in rows:
            row.revoked_at, row.revoked_by = ledger.now, by.name
            session.flush()
            tell(session, ledger, by, "signer-revoked", row.name, "", row.id)
        return [row.id for row in rows]

    def listed(self, session: Session) -> list[SignerInfo]:
        """All keys, by name and age."""
        rows = session.scalars(select(SignerRow).order_by(SignerRow.name, SignerRow.added_at, SignerRow.id)).all()
        return [
            SignerInfo(
                id=row.id,
                name=row.name,
                grants=[str(grant) for grant in grants_of(session, row.name)],
                note=row.note,
                added_by=row.added_by,
                added_at=row.added_at,
                revoked_at=row.revoked_at,
            )
            for row in rows
        ]

    def principal(self, session: Session, record: Record, command: AnyRegistryCommand, audience: str) -> Principal:
        """Who asks for what a record commands, once that one may.

        Raises
        ------
        DecodeError
            With `reason` ``unsigned``, ``signature``, ``untrusted``, ``audience``, ``age``, ``actor`` or ``forbidden``.
        """
        row = self._signed_by(session, record, command.model, audience)
        if row.name == SYSTEM:
            if not isinstance(command, BY_SYSTEM):
                raise DecodeError(f"agents do not ask for {type(command).__name__}", reason="forbidden")
            return Principal("agents", "system", authenticated=True, credential=row.id)
        return self._person(session, row, command.actor, NEEDS.get(type(command), "approver"), command.model)

    def asker(self, session: Session, record: Record, request: RetrainRequest, audience: str) -> Principal:
        """Who asks for a successor, once that one may: the agents, or a producer of the model in its own name.

        Raises
        ------
        DecodeError
            As `principal`.
        """
        row = self._signed_by(session, record, request.model, audience)
        if row.name == SYSTEM:
            return Principal("agents", "system", authenticated=True, credential=row.id)
        return self._person(session, row, request.requested_by, "producer", request.model)

    def _signed_by(self, session: Session, record: Record, model: str, audience: str) -> SignerRow:
        signed = read_signature(record.headers)
        row = session.get(SignerRow, signed.key)
        if row is None:
            raise DecodeError(f"signed by key {signed.key}, which is nobody's here", reason="untrusted")
        if row.revoked_at is not None:
            raise DecodeError(f"key {row.id} of {row.name} was revoked", reason="untrusted")
        check_signature(signed, row.public, audience, record.key, record.value or b"", record.timestamp_ms)
        if (record.key or b"") != model.encode():
            raise DecodeError(f"the record's key is not {model!r}", reason="schema")
        return row

    def _person(self, session: Session, row: SignerRow, actor: str, role: Role, model: str) -> Principal:
        if actor != row.name:
            raise DecodeError(f"signed by {row.name}, the actor is {actor!r}", reason="actor")
        found = Principal(
            row.name, "signer", authenticated=True, credential=row.id, grants=grants_of(session, row.name)
        )
        if not found.may(role, model, team_of(session, model)):
            raise DecodeError(refuse(found, role, model).what, reason="forbidden")
        return found


def raw_public(pem: bytes) -> bytes:
    """The 32 bytes of an Ed25519 public key in PEM. Raises `ConfigurationError`."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise ConfigurationError(
            "no public key in PEM", where="--public-key", remedy="openssl pkey -in key.pem -pubout"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(
            "not an Ed25519 key", where="--public-key", remedy="openssl genpkey -algorithm ed25519 -out key.pem"
        )
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
