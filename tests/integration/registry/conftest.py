"""The registry suite runs on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import EmbeddedPostgres, prepare
from tests.support.registries import RegistryWorld


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Which database the test runs on."""
    return str(request.param)


@pytest.fixture
def database_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: EmbeddedPostgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def world(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryWorld]:
    """A registry on a database of its own with the newest schema."""
    if database == "sqlite":
        made = RegistryWorld(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
        prepare(made.engine)
    else:
        server: EmbeddedPostgres = request.getfixturevalue("postgres")
        made = RegistryWorld(server.prepared(), tmp_path)
    yield made
    made.close()
