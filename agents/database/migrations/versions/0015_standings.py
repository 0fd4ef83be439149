"""What versions were and when, beside the audit, to be found by index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

AT_ONCE = 1_000
MODELS_AT_ONCE = 200
STAGES = {
    "VersionRegistered": "registered",
    "VersionObserved": "observed",
    "VersionValidated": "validated",
    "ApprovalRequested": "approval-requested",
    "ApprovalLapsed": "expired",
    "VersionArchived": "archived",
    "VersionApproved": "approved",
    "VersionRejected": "rejected",
    "ModelPromoted": "promoted",
    "ModelRolledBack": "promoted",
}
"""Stage by event, as the audit meant it at this revision."""


def upgrade() -> None:
    op.create_table(
        "registry_standings",
        sa.Column("standing", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("standing", "model", "version", "since", name=op.f("pk_registry_standings")),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    names = ("standing", "model", "version", "since", "until")
    table = sa.table("registry_standings", *map(sa.column, names))
    rows: list[dict[str, Any]] = []
    for row in _spans(connection):
        rows.append(dict(zip(names, row, strict=True)))
        if len(rows) == AT_ONCE:
            connection.execute(table.insert(), rows)
            rows.clear()
    if rows:
        connection.execute(table.insert(), rows)
    op.create_index("ix_registry_standings_model", "registry_standings", ["model", "since", "until"])
    # Which models had a version at a moment, without a look at rows that are wide.
    op.create_index("ix_registry_versions_registered", "registry_versions", ["model", "registered_epoch"])


Row = tuple[str, str, int, int, int | None]


def _spans(connection: sa.Connection) -> Iterator[Row]:
    audit = sa.table("registry_audit", *map(sa.column, ("model", "epoch", "action", "version", "event")))
    told = audit.c.action.in_(STAGES)
    models = connection.execute(sa.select(audit.c.model).where(told).distinct().order_by(audit.c.model)).scalars().all()
    for start in range(0, len(models), MODELS_AT_ONCE):
        some = audit.c.model.in_(models[start : start + MODELS_AT_ONCE])
        rows = connection.execute(sa.select(audit).where(some, told).order_by(audit.c.model, audit.c.epoch))
        for model, events in groupby(rows.all(), key=itemgetter(0)):
            yield from _of_model(model, events)


def _of_model(model: str, events: Iterable[Any]) -> Iterator[Row]:
    now: dict[str | int, tuple[str, int, int]] = {}  # by alias, and by version where it is a stage
    missing: dict[int, int] = {}  # approvals still to come, where people decide
    for _, epoch, action, version, text in events:
        event = json.loads(text)
        then: dict[str | int, tuple[str, int] | None] = {version: (STAGES[action], version)}
        previous = event.get("previous")
        challenger = now["challenger"][1] if "challenger" in now else None
        if action == "ApprovalRequested":
            missing[version] = event["approvers"]
            then["challenger"] = ("challenger", version)
        elif action == "VersionApproved":
            missing[version] = missing.get(version, 1) - 1
            if missing[version] > 0:
                then.clear()
        elif action in {"ApprovalLapsed", "VersionRejected", "ModelPromoted"} and challenger == version:
            then["challenger"] = None
        if action in {"VersionObserved", "ModelPromoted", "ModelRolledBack"}:
            then["champion"] = ("champion", version)
        if action in {"ModelPromoted", "ModelRolledBack"} and previous is not None:
            then[previous] = ("superseded" if action == "ModelPromoted" else "rolled-back", previous)
        for key, is_now in then.items():
            was = now.get(key)
            if was is not None and was[:2] != is_now:
                standing, number, since = now.pop(key)
                yield standing, model, number, since, epoch
            if is_now is not None and key not in now:
                now[key] = (*is_now, epoch)
    for standing, number, since in now.values():
        yield standing, model, number, since, None


def downgrade() -> None:
    op.drop_index("ix_registry_versions_registered", "registry_versions")
    op.drop_table("registry_standings")
