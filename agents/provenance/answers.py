"""The two questions as command line and gateway ask them: a read-only session and an open archive a call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.database.migrate import migrated
from agents.registry.service import Registry

if TYPE_CHECKING:
    from agents.provenance.live import Live
    from agents.provenance.why import Why


class Provenance:
    """Answers from registry, audit and archive.

    Parameters
    ----------
    registry : Registry
    readers : Sessions
        Read-only sessions.
    archive : str
        `Settings.archive`.
    clock : callable
        The system's clock, aware.
    """

    def __init__(
        self,
        registry: Registry,
        readers: Sessions,
        archive: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._readers = readers
        self._archive = archive
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> Provenance:
        """Wired to what `settings` names; the database is made or migrated where needed.

        Raises
        ------
        DatabaseUnavailableError, RegistryError
        """
        engine = migrated(settings.database)
        registry = Registry(session_factory(engine), ArtifactStore.of(settings))
        return cls(registry, session_factory(engine, read_only=True), settings.archive)

    def live(self, model: str, at: datetime | None = None) -> Live:
        """Which version was live at a moment (default: now). Raises `NotFoundError`."""
        from agents.provenance import live, traffic  # reads Parquet: not what the gateway needs to start

        now = self._clock()
        with self._readers() as session, traffic.opened(session, self._archive) as archive:
            return live.live(self._registry, session, archive, model, at or now, now)

    def why(self, model: str, version: int) -> Why:
        """Why a version came and why it went. Raises `NotFoundError`."""
        from agents.provenance import traffic, why

        with self._readers() as session, traffic.opened(session, self._archive) as archive:
            return why.why(self._registry, session, archive, model, version)
