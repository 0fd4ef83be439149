"""What the registry tells: plain values, detached from the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from agents.registry.flags import Flag
from agents.registry.tables import ModelRow, VersionRow

OWNER, TEAM = "@owner", "@team"
"""Tags that hold what the specification says of owner and team; nobody else can write keys that begin so."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A registered model. `versions`: how many there are.

    `monitored`: trained and served elsewhere; `learning`: its reference is still to be learnt.
    """

    model: str
    task: str
    champion: int | None
    challenger: int | None
    versions: int
    epoch: int
    registered_at: datetime
    actor: str
    monitored: bool = False
    reference_window: str | None = None
    learning: bool = False
    owner: str = ""
    team: str = ""
    tags: dict[str, str] = {}


class VersionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A version and what became of it.

    `external` is its name elsewhere, where it is only watched. `at` is event time (the knowledge it was trained with),
    `registered_at` and `promoted_at` are the system's clock. `allowed_types`: what its file may hold beside the
    defaults.
    """

    model: str
    version: int
    stage: str
    decision: str | None
    reason: str
    artifact: str
    reference: str
    specification: str
    parent: int | None
    run_id: str | None
    code: dict[str, Any]
    dataset: dict[str, Any]
    environment: dict[str, Any]
    parameters: dict[str, Any]
    seed: int
    report: dict[str, Any]
    actor: str
    at: datetime
    registered_at: datetime
    registered_epoch: int
    promoted_at: datetime | None
    champion: bool
    external: str | None = None
    tags: dict[str, str] = {}
    flags: list[Flag] = []
    allowed_types: list[str] = []


def model_info(row: ModelRow, versions: int, tags: Mapping[str, str]) -> ModelInfo:
    return ModelInfo(
        model=row.name,
        task=row.task,
        champion=row.champion,
        challenger=row.challenger,
        versions=versions,
        epoch=row.epoch,
        registered_at=row.registered_at,
        actor=row.actor,
        monitored=row.monitored,
        reference_window=row.reference_window,
        learning=row.monitored and row.reference is None,
        owner=tags.get(OWNER, ""),
        team=tags.get(TEAM, ""),
        tags={key: value for key, value in tags.items() if not key.startswith("@")},
    )


def version_info(
    row: VersionRow,
    *,
    champion: bool,
    stage: str | None = None,
    tags: Mapping[str, str] | None = None,
    flags: Iterable[Flag] = (),
) -> VersionInfo:
    return VersionInfo(
        model=row.model,
        version=row.version,
        stage=stage or row.stage,
        decision=row.decision,
        reason=row.reason,
        artifact=row.artifact,
        reference=row.reference,
        specification=row.specification,
        parent=row.parent,
        run_id=row.run_id,
        code=row.code,
        dataset=row.dataset,
        environment=row.environment,
        parameters=row.parameters,
        seed=row.seed,
        report=row.report,
        actor=row.actor,
        at=row.at,
        registered_at=row.registered_at,
        registered_epoch=row.registered_epoch,
        promoted_at=row.promoted_at,
        champion=champion,
        external=row.external,
        tags=dict(tags or {}),
        flags=list(flags),
        allowed_types=list(row.allowed_types),
    )
