"""What one can ask the registry. Every question takes a session; a read-only one is enough."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agents.registry.change import find_model, find_version
from agents.registry.flags import in_force as flags_in_force
from agents.registry.logic import History
from agents.registry.search import Search, Seen, epoch_at, find_models, find_versions, histories
from agents.registry.tables import ModelRow, SpecificationRow, VersionRow
from agents.registry.tags import in_force
from agents.registry.views import ModelInfo, VersionInfo, model_info, version_info
from schemas.errors import NotFoundError
from schemas.specification import Specification, parse


class Questions:
    """The reading half of the registry."""

    def models(self, session: Session) -> list[ModelInfo]:
        """All models, by name."""
        return self.find_models(session, Search())[0]

    def find_models(
        self, session: Session, search: Search, seen: Seen = lambda names: names
    ) -> tuple[list[ModelInfo], str]:
        """As `agents.registry.search.find_models`."""
        return find_models(session, search, seen)

    def model(self, session: Session, model: str) -> ModelInfo:
        """One model. Raises `NotFoundError`."""
        row = find_model(session, model)
        count = session.scalar(select(func.count()).select_from(VersionRow).where(VersionRow.model == model)) or 0
        return model_info(row, count, in_force(session, model))

    def model_names(self, session: Session) -> list[str]:
        """Names of all models."""
        return list(session.scalars(select(ModelRow.name).order_by(ModelRow.name)))

    def model_count(self, session: Session) -> int:
        """How many models are registered."""
        return session.scalar(select(func.count()).select_from(ModelRow)) or 0

    def versions(self, session: Session, model: str, as_of: datetime | None = None) -> list[VersionInfo]:
        """Versions of a model, oldest first; with `as_of`, as they stood at that moment of the system's clock.

        Raises
        ------
        NotFoundError
        """
        find_model(session, model)
        return find_versions(session, Search(as_of=as_of), model=model)[0]

    def version(self, session: Session, model: str, version: int) -> VersionInfo:
        """One version. Raises `NotFoundError`."""
        row = find_model(session, model)
        found, tags = find_version(session, model, version), in_force(session, model, version)
        flags = [one for one in flags_in_force(session, [model]) if one.version == version]
        return version_info(found, champion=row.champion == version, tags=tags, flags=flags)

    def champion(self, session: Session, model: str, as_of: datetime | None = None) -> VersionInfo | None:
        """The version in production, now or at a moment of the system's clock. Raises `NotFoundError`."""
        row = find_model(session, model)
        number = row.champion if as_of is None else self.history(session, model, as_of).champion
        if number is None:
            return None
        return version_info(find_version(session, model, number), champion=True, stage="promoted")

    def history(self, session: Session, model: str, as_of: datetime | None = None) -> History:
        """Champion, challenger and stages as the audit tells them, until `as_of` (inclusive)."""
        return histories(session, [model], None if as_of is None else epoch_at(session, as_of))[model]

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
