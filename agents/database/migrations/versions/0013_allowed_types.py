"""What a version's file may hold beside the defaults, as its specification says."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("registry_versions", sa.Column("allowed_types", sa.Text(), server_default="[]", nullable=False))
    connection = op.get_bind()
    texts = connection.execute(
        sa.text("SELECT sha, text FROM registry_specifications WHERE text LIKE '%allowed_types%'")
    ).all()
    for sha, text in texts:
        if allowed := _allowed(text):
            connection.execute(
                sa.text("UPDATE registry_versions SET allowed_types = :allowed WHERE specification = :sha"),
                {"allowed": json.dumps(allowed, separators=(",", ":")), "sha": sha},
            )


def _allowed(text: str) -> list[str]:
    try:
        found: Any = tomllib.loads(text).get("model", {}).get("allowed_types", [])
    except tomllib.TOMLDecodeError:
        return []  # whoever needs it says so
    return sorted({str(name) for name in found})


def downgrade() -> None:
    op.drop_column("registry_versions", "allowed_types")
