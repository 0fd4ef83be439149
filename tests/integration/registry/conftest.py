"""The registry suite runs on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.database.migrate import upgrade
from tests.support.databases import EmbeddedPostgres
from tests.support.registries import RegistryWorld


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: EmbeddedPostgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[RegistryWorld]:
    made = RegistryWorld(database_url, tmp_path)
    upgrade(made.engine)
    yield made
    made.close()
