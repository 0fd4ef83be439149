"""Tables of who may: API keys with their grants, sessions of the page, keys that sign commands."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, UtcDateTime

NAME = String(64)
KEY_ID = String(16)


class ApiKeyRow(Base):
    """A key: its public id, whose it is, and the argon2id hash of its secret. Never deleted, only revoked."""

    __tablename__ = "access_keys"
    __table_args__ = (Index("ix_access_keys_name", "name"),)

    id: Mapped[str] = mapped_column(KEY_ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    hash: Mapped[str] = mapped_column(String(256))
    created_by: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    revoked_by: Mapped[str | None] = mapped_column(String(256), default=None)
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts with this id and a wrong secret."""


class GrantRow(Base):
    """A role that every key of `name` has (and every signed command of `name`), on models by pattern and team."""

    __tablename__ = "access_grants"
    __table_args__ = (
        Index("ix_access_grants_name", "name"),
        CheckConstraint("role IN ('viewer', 'producer', 'approver', 'admin')", name="role"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(NAME)
    role: Mapped[str] = mapped_column(String(16))
    pattern: Mapped[str] = mapped_column(String(200))
    team: Mapped[str | None] = mapped_column(String(128), default=None)


class SessionRow(Base):
    """Somebody who is logged in on the page: SHA-256 of the cookie, never the cookie."""

    __tablename__ = "access_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(ForeignKey("access_keys.id"))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SignerRow(Base):
    """A public key whose signature makes a command on `registry-commands` one of `name`'s. Revoked, never deleted."""

    __tablename__ = "access_signers"
    __table_args__ = (Index("ix_access_signers_name", "name"),)

    id: Mapped[str] = mapped_column(KEY_ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    public: Mapped[bytes] = mapped_column(LargeBinary)
    """32 raw bytes, Ed25519."""
    note: Mapped[str] = mapped_column(Text, default="")
    added_by: Mapped[str] = mapped_column(String(256))
    added_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    revoked_by: Mapped[str | None] = mapped_column(String(256), default=None)
