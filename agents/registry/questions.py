"""What one can ask the registry. Every question takes a session; a read-only one is enough."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agents.registry.change import find_model, find_version
from agents.registry.logic import History, replay
from agents.registry.tables import AuditRow, ModelRow, SpecificationRow, VersionRow
from agents.registry.views import ModelInfo, VersionInfo, model_info, version_info
from schemas.codec import decode
from schemas.errors import NotFoundError
from schemas.events import AnyRegistryEvent
from schemas.specification import Specification, parse


class Questions:
    """The reading half of the registry."""

    def models(self, session: Session) -> list[ModelInfo]:
        """All models, by name."""
        counted = session.execute(select(VersionRow.model, func.count()).group_by(VersionRow.model))
        counts = {row[0]: row[1] for row in counted}
        rows = session.scalars(select(ModelRow).order_by(ModelRow.name))
        return [model_info(row, counts.get(row.name, 0)) for row in rows]

    def model_count(self, session: Session) -> int:
        """How many models are registered."""
        return session.scalar(select(func.count()).select_from(ModelRow)) or 0

    def versions(self, session: Session, model: str, as_of: datetime | None = None) -> list[VersionInfo]:
        """Versions of a model, oldest first; with `as_of`, as they stood at that moment of the system's clock.

        Raises
        ------
        NotFoundError
        """
        row = find_model(session, model)
        rows = session.scalars(select(VersionRow).where(VersionRow.model == model).order_by(VersionRow.version)).all()
        if as_of is None:
            return [version_info(entry, champion=entry.version == row.champion) for entry in rows]
        then = self.history(session, model, as_of)
        return [
            version_info(entry, champion=entry.version == then.champion, stage=then.stages[entry.version])
            for entry in rows
            if entry.version in then.stages
        ]

    def version(self, session: Session, model: str, version: int) -> VersionInfo:
        """One version. Raises `NotFoundError`."""
        row = find_model(session, model)
        return version_info(find_version(session, model, version), champion=row.champion == version)

    def champion(self, session: Session, model: str, as_of: datetime | None = None) -> VersionInfo | None:
        """The version in production, now or at a moment of the system's clock. Raises `NotFoundError`."""
        row = find_model(session, model)
        number = row.champion if as_of is None else self.history(session, model, as_of).champion
        if number is None:
            return None
        return version_info(find_version(session, model, number), champion=True, stage="promoted")

    def history(self, session: Session, model: str, as_of: datetime | None = None) -> History:
        """Champion, challenger and stages as the audit tells them, until `as_of` (inclusive)."""
        statement = select(AuditRow.event).where(AuditRow.model == model).order_by(AuditRow.epoch)
        if as_of is not None:
            statement = statement.where(AuditRow.recorded_at <= as_of)
        events: list[AnyRegistryEvent] = [
            decode(text.encode(), AnyRegistryEvent)  # type: ignore[arg-type]
            for text in session.scalars(statement)
        ]
        return replay(events)

    def specification(self, session: Session, model: str, version: int | None = None) -> Specification:
        """Specification of a version; default the champion's, before there is one the model's newest.

        Raises
        ------
        NotFoundError
        """
        row = find_model(session, model)
        number = version if version is not None else row.champion
        sha = row.specification if number is None else find_version(session, model, number).specification
        return parse(self.specification_text(session, sha))

    def specification_text(self, session: Session, sha: str) -> str:
        """The TOML of a specification by its hash. Raises `NotFoundError`."""
        found = session.get(SpecificationRow, sha)
        if found is None:
            raise NotFoundError(f"no specification {sha}")
        return found.text
