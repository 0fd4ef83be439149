"""Requests for approval with their policy, approvals bound to them, roll-backs to be reviewed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

REQUESTS = "registry_approval_requests"
BOUND = ["id", "requester", "artifact", "four_eyes"]


def upgrade() -> None:
    op.create_table(
        REQUESTS,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("requester", sa.String(length=256), nullable=False),
        sa.Column("artifact", sa.String(length=64), nullable=False),
        sa.Column("four_eyes", sa.Boolean(), nullable=False),
        sa.Column("approvers", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_approval_requests")),
        sa.UniqueConstraint(*BOUND, name="uq_registry_approval_requests_bound"),
    )
    op.create_index("ix_registry_approval_requests_version", REQUESTS, ["model", "version"])
    # What was asked before this release: how many had to approve stands in the specification, and 1 was the default.
    op.execute(
        f"INSERT INTO {REQUESTS} (model, version, requester, artifact, four_eyes, approvers, requested_at, closed_at)"
        " SELECT v.model, v.version, v.actor, v.artifact, false, 0, v.registered_at,"
        " CASE WHEN v.stage = 'approval-requested' THEN NULL ELSE v.registered_at END FROM registry_versions v"
        " WHERE v.stage = 'approval-requested' OR EXISTS (SELECT 1 FROM registry_approvals a"
        " WHERE a.model = v.model AND a.version = v.version)"
    )
    with op.batch_alter_table("registry_approvals") as batch:
        batch.add_column(sa.Column("request", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("requester", sa.String(length=256), nullable=True))
        batch.add_column(sa.Column("four_eyes", sa.Boolean(), nullable=True))
    for column, source in (("request", "id"), ("requester", "requester"), ("four_eyes", "four_eyes")):
        op.execute(
            f"UPDATE registry_approvals SET {column} = (SELECT r.{source} FROM {REQUESTS} r"
            " WHERE r.model = registry_approvals.model AND r.version = registry_approvals.version)"
        )
    with op.batch_alter_table("registry_approvals") as batch:
        batch.alter_column("request", existing_type=sa.BigInteger(), nullable=False)
        batch.alter_column("requester", existing_type=sa.String(length=256), nullable=False)
        batch.alter_column("four_eyes", existing_type=sa.Boolean(), nullable=False)
        batch.create_foreign_key(
            "fk_registry_approvals_request", REQUESTS, ["request", "requester", "artifact", "four_eyes"], BOUND
        )
        batch.create_check_constraint(op.f("ck_registry_approvals_four_eyes"), "NOT four_eyes OR actor <> requester")
    op.create_table(
        "registry_reviews",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("four_eyes", sa.Boolean(), nullable=False),
        sa.Column("reviewed_by", sa.String(length=256), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "reviewed_by IS NULL OR NOT four_eyes OR reviewed_by <> actor", name=op.f("ck_registry_reviews_four_eyes")
        ),
        sa.PrimaryKeyConstraint("epoch", name=op.f("pk_registry_reviews")),
    )


def downgrade() -> None:
    op.drop_table("registry_reviews")
    with op.batch_alter_table("registry_approvals") as batch:
        batch.drop_constraint(op.f("ck_registry_approvals_four_eyes"), type_="check")
        batch.drop_constraint("fk_registry_approvals_request", type_="foreignkey")
        for column in ("four_eyes", "requester", "request"):
            batch.drop_column(column)
    op.drop_table(REQUESTS)
