"""Probations: who shadows, what was compared so far, how far the metrics were read; the change point of a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "probations",
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_probations")),
    )
    op.create_table(
        "reading_positions",
        sa.Column("agent", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent", "topic", "partition", name=op.f("pk_reading_positions")),
    )
    with op.batch_alter_table("registry_models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("shadow", sa.Integer(), nullable=True))
    with op.batch_alter_table("training_runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("change_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("training_runs", schema=None) as batch_op:
        batch_op.drop_column("change_ms")
    with op.batch_alter_table("registry_models", schema=None) as batch_op:
        batch_op.drop_column("shadow")
    op.drop_table("reading_positions")
    op.drop_table("probations")
