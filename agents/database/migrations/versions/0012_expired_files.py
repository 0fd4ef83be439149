"""Tombstones of archived files whose time was up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "archive_expired",
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("last_offset", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("timeless", sa.Integer(), nullable=False),
        sa.Column("min_event_time_ms", sa.BigInteger(), nullable=True),
        sa.Column("max_event_time_ms", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("expired_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_archive_expired")),
    )
    op.create_index(op.f("ix_archive_expired_topic"), "archive_expired", ["topic"])


def downgrade() -> None:
    op.drop_table("archive_expired")
