"""Tables of the datasets."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, UtcDateTime


class DatasetRow(Base):
    """One version of a named dataset; what it holds is in its manifest, an artifact. Never changed."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(128))
    version: Mapped[int]
    manifest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the manifest."""
    data: Mapped[str] = mapped_column(String(64), index=True)
    """SHA-256 of the rows, a Parquet file in the artifact store."""
    rows: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str] = mapped_column(Text, default="")
    actor: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DatasetParentRow(Base):
    """A dataset that went into another one, as that one's manifest says: to be found from the parent."""

    __tablename__ = "dataset_parents"

    child: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True, autoincrement=False)
    parent: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True, autoincrement=False, index=True)
