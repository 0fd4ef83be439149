"""Fixtures shared by all tests: one embedded broker a session, a prefix of its own for every test."""

from __future__ import annotations

import logging
import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

# Containers like to forbid bytecode. The processes of the suite and the dozens of agents and commands that it starts
# would compile the same modules again and again: a third of a worker's start. (Before anything large is imported.)
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

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


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Agents and commands that run in the test's process set up the log: to a stream that ends with the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in handlers:
            root.removeHandler(handler)


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
