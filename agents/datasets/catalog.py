"""Which datasets there are, and their manifests. Light: the gateway asks, too."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.datasets.manifest import MANIFEST_KIND, Manifest, parse_reference
from agents.datasets.tables import DatasetRow
from schemas.errors import NotFoundError


def newest(session: Session, name: str) -> DatasetRow | None:
    """The newest version of a dataset."""
    return session.scalars(
        select(DatasetRow).where(DatasetRow.name == name).order_by(DatasetRow.version.desc()).limit(1)
    ).first()


def find(session: Session, reference: str) -> DatasetRow:
    """The dataset that ``NAME`` (the newest) or ``NAME@VERSION`` names.

    Raises
    ------
    ConfigurationError, NotFoundError
    """
    name, version = parse_reference(reference)
    row = newest(session, name)
    if row is not None and version is not None:
        row = session.scalars(select(DatasetRow).where(DatasetRow.name == name, DatasetRow.version == version)).first()
    if row is None:
        raise NotFoundError(
            f"no dataset {reference}", where="registry", remedy="`driftline datasets list` lists those there are"
        )
    return row


def holding(session: Session, data: str) -> list[DatasetRow]:
    """Datasets whose rows have a SHA-256 that begins so, by name and version."""
    rows = select(DatasetRow).where(DatasetRow.data >= data, DatasetRow.data < data + "g")
    return list(session.scalars(rows.order_by(DatasetRow.name, DatasetRow.version)))


def listed(session: Session, name: str | None = None) -> list[DatasetRow]:
    """Datasets by name and version; the newest version of each, or all of one."""
    query = select(DatasetRow).order_by(DatasetRow.name, DatasetRow.version)
    if name is not None:
        return list(session.scalars(query.where(DatasetRow.name == name)))
    last = select(DatasetRow.name, func.max(DatasetRow.version)).group_by(DatasetRow.name)
    newest_of = {found[0]: found[1] for found in session.execute(last)}
    return [row for row in session.scalars(query) if newest_of[row.name] == row.version]


def load(artifacts: ArtifactStore, manifest: str) -> Manifest:
    """A manifest by its hash. Raises `ArtifactError` where it is missing, altered or not signed."""
    data = artifacts.get(manifest)
    artifacts.verify(manifest, MANIFEST_KIND)
    return msgspec.json.decode(data, type=Manifest)
