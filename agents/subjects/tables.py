"""Tables of people's keys: what destroys a person's data is that its row here is gone."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, UtcDateTime

PSEUDONYM = String(64)


class SubjectMasterRow(Base):
    """One row: which master key the others are wrapped by, so that another one is refused."""

    __tablename__ = "subject_master"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str] = mapped_column(PSEUDONYM)


class SubjectKeyRow(Base):
    """The key of a subject, wrapped; erasing the subject deletes the row.

    `id` is random: once the row is gone nothing connects what is sealed under it with the subject.
    """

    __tablename__ = "subject_keys"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    subject: Mapped[str] = mapped_column(PSEUDONYM, unique=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SubjectErasureRow(Base):
    """That a subject was erased, and the audit row that says so. Readers look at the newest to drop what they keep."""

    __tablename__ = "subject_erasures"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    subject: Mapped[str] = mapped_column(PSEUDONYM, index=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
