"""Fixtures shared by all tests: one embedded broker a session, a prefix of its own for every test."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka

# Read when the libraries load, so before any test module is imported. Their threads wait by spinning: beside another
# process of the suite, models of a few hundred rows took ten times as long to fit.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Speed is judged in benchmarks: an example that a busy machine holds up is no failure.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """The session's broker (started by the first test that asks for it; ends with the session)."""
    home: Path = tmp_path_factory.mktemp("broker")
    with EmbeddedKafka(home) as embedded:
        yield embedded


@pytest.fixture
def kafka(broker: EmbeddedKafka, request: pytest.FixtureRequest) -> KafkaConfig:
    """The session's broker under a prefix that no other test uses. Create topics with `ensure_topics(kafka, n)`."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return KafkaConfig(broker.start(), prefix=f"{name}-{uuid.uuid4().hex[:6]}.")
