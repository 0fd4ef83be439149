"""Tags of models and versions, and what went into versions, to be found by index."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

EXACT = sa.String(length=600).with_variant(sa.String(length=600, collation="C"), "postgresql")
AT_ONCE = 1_000


def upgrade() -> None:
    op.create_table(
        "registry_tags",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("value", sa.String(length=256), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["registry_models.name"], name=op.f("fk_registry_tags_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_tags")),
    )
    op.create_index("ix_registry_tags_value", "registry_tags", ["key", "value", "model"])
    op.create_index("ix_registry_tags_model", "registry_tags", ["model", "version"])
    op.create_table(
        "registry_inputs",
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("sha", EXACT, nullable=False),
        sa.Column("relation", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "kind", "sha", "relation", name=op.f("pk_registry_inputs")),
    )
    op.create_index("ix_registry_inputs_sha", "registry_inputs", ["kind", "sha"])
    op.create_table(
        "registry_environments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("lock", sa.String(length=64), nullable=True),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_environments")),
    )
    op.create_index("ix_registry_environments_complete", "registry_environments", ["complete"])
    op.create_table(
        "registry_packages",
        sa.Column("environment", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("version", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment"], ["registry_environments.id"], name=op.f("fk_registry_packages_environment")
        ),
        sa.PrimaryKeyConstraint("environment", "name", name=op.f("pk_registry_packages")),
    )
    op.create_index("ix_registry_packages_name", "registry_packages", ["name", "version"])
    op.create_index("ix_registry_versions_stage", "registry_versions", ["stage", "model", "version"])
    op.create_index("ix_registry_audit_recorded_at", "registry_audit", ["recorded_at"])
    _tags()
    _inputs()


def _tags() -> None:
    """Owner, team and tags as the models' specifications say; since when is not known, so: always."""
    import tomllib

    connection = op.get_bind()
    tags = sa.table("registry_tags", *map(sa.column, ("model", "version", "key", "value", "since")))
    found = connection.execute(
        sa.text(
            "SELECT m.name, s.text FROM registry_models m JOIN registry_specifications s ON s.sha = m.specification"
        )
    )
    rows: list[dict[str, Any]] = []
    for name, text in found:
        try:
            section = tomllib.loads(text).get("model", {})
        except tomllib.TOMLDecodeError:
            continue  # whoever needs it says so
        given = {"@owner": section.get("owner", ""), "@team": section.get("team", ""), **section.get("tags", {})}
        rows += [
            {"model": name, "version": 0, "key": str(key)[:128], "value": str(value)[:256], "since": 0}
            for key, value in given.items()
            if value or not key.startswith("@")
        ]
    for start in range(0, len(rows), AT_ONCE):
        connection.execute(tags.insert(), rows[start : start + AT_ONCE])


def _inputs() -> None:
    connection = op.get_bind()
    names = ("model", "version", "kind", "sha", "relation")
    inputs = sa.table("registry_inputs", *map(sa.column, names))
    environments = sa.table("registry_environments", *map(sa.column, ("id", "lock", "complete")))
    packages = sa.table("registry_packages", *map(sa.column, ("environment", "name", "version")))
    known: set[str] = set()
    last = 0
    while True:
        page = connection.execute(
            sa.text(
                "SELECT id, model, version, parent, run_id, specification, dataset, code, environment"
                " FROM registry_versions WHERE id > :last ORDER BY id LIMIT :most"
            ),
            {"last": last, "most": AT_ONCE},
        ).all()
        if not page:
            return
        last = page[-1].id
        rows: list[dict[str, Any]] = []
        for row in page:
            environment = json.loads(row.environment)
            sha = hashlib.sha256(row.environment.encode()).hexdigest()
            for kind, found, relation in [*_of(row), ("packages", sha, "environment")]:
                rows.append(dict(zip(names, (row.model, row.version, kind, str(found)[:600], relation), strict=True)))
            if sha in known:
                continue
            known.add(sha)
            lock = environment.get("lock")
            # The packages of a lock stand in the artifact store, which no migration reads.
            connection.execute(environments.insert().values(id=sha, lock=lock, complete=lock is None))
            for name, version in environment.items():
                if name != "lock" and isinstance(version, str):
                    values = {"environment": sha, "name": name.lower().replace("_", "-"), "version": version}
                    connection.execute(packages.insert().values(values))
        unique = {tuple(row.values()): row for row in rows}
        connection.execute(inputs.insert(), list(unique.values()))


def _of(row: Any) -> list[tuple[str, Any, str]]:
    """As `agents.registry.lineage` read records at this revision."""
    dataset, code, environment = json.loads(row.dataset), json.loads(row.code), json.loads(row.environment)
    archive = dataset.get("archive")
    found = [
        ("version", None if row.parent is None else f"{row.model}/{row.parent}", "successor of"),
        ("dataset", dataset.get("registered"), "trained on"),
        ("dataset", dataset.get("seasons"), "seasons of"),
        ("rows", dataset.get("sha256"), "rows"),
        ("archive", f"{row.model}/{archive['from']}/{archive['as_of']}" if archive else None, "trained on"),
        ("code", code.get("tree"), "code"),
        ("commit", code.get("commit"), "commit"),
        ("environment", environment.get("lock"), "environment"),
        ("specification", row.specification, "specification"),
        ("run", row.run_id, "made by"),
    ]
    return [(kind, sha, relation) for kind, sha, relation in found if sha]


def downgrade() -> None:
    op.drop_index("ix_registry_audit_recorded_at", "registry_audit")
    op.drop_index("ix_registry_versions_stage", "registry_versions")
    for table in ("registry_packages", "registry_environments", "registry_inputs", "registry_tags"):
        op.drop_table(table)
