"""Models that are only watched, external names of versions, webhooks that are no alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("registry_models") as batch_op:
        batch_op.add_column(sa.Column("monitored", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("reference", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("reference_window", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("learning_from_ms", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("registry_versions") as batch_op:
        batch_op.add_column(sa.Column("external", sa.String(length=128), nullable=True))
        batch_op.create_index("ix_registry_versions_external", ["model", "external"], unique=False)
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(length=20), nullable=False, server_default="alert"))


def downgrade() -> None:
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.drop_column("kind")
    with op.batch_alter_table("registry_versions") as batch_op:
        batch_op.drop_index("ix_registry_versions_external")
        batch_op.drop_column("external")
    with op.batch_alter_table("registry_models") as batch_op:
        batch_op.drop_column("learning_from_ms")
        batch_op.drop_column("reference_window")
        batch_op.drop_column("reference")
        batch_op.drop_column("monitored")
