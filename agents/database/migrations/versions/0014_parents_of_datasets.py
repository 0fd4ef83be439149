"""Datasets that datasets were made from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "dataset_parents",
        sa.Column("child", number, autoincrement=False, nullable=False),
        sa.Column("parent", number, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["child"], ["datasets.id"], name=op.f("fk_dataset_parents_child_datasets")),
        sa.ForeignKeyConstraint(["parent"], ["datasets.id"], name=op.f("fk_dataset_parents_parent_datasets")),
        sa.PrimaryKeyConstraint("child", "parent", name=op.f("pk_dataset_parents")),
    )
    op.create_index(op.f("ix_dataset_parents_parent"), "dataset_parents", ["parent"])


def downgrade() -> None:
    op.drop_table("dataset_parents")
