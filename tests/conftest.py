"""Fixtures shared by all tests: one embedded broker for them all, a prefix of its own for every test."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Containers like to forbid bytecode. The processes of the suite and the dozens of agents and commands that it starts
# would compile the same modules again and again: a third of a worker's start. (Before anything large is imported.)
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Importing half of the scientific world makes a million objects that stay. Looking through them over and over, and
# again in every test, was two fifths of collecting: see `pytest_collection_finish`.
gc.disable()

import hypothesis
import pytest

from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from tests.support.shared_broker import BrokerOwner, shared_broker

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


def pytest_collection_finish() -> None:
    """What collecting left is never garbage: from here on only what tests make is looked through."""
    gc.collect()
    gc.freeze()
    gc.enable()


OWNER = pytest.StashKey[BrokerOwner]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where the broker is that it shares with the others."""
    gc.enable()  # this process collects nothing itself
    if OWNER not in node.config.stash:
        # Where xdist itself takes the folders of its workers from.
        node.config.stash[OWNER] = BrokerOwner(node.config._tmp_path_factory.mktemp("broker"))
    node.workerinput["broker_home"] = str(node.config.stash[OWNER].home)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the broker after the last worker."""
    gc.unfreeze()
    if OWNER in config.stash:
        config.stash[OWNER].stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[EmbeddedKafka]:
    """The broker of all tests (started by the first test that asks for it; ends with the session)."""
    home = getattr(request.config, "workerinput", {}).get("broker_home")
    if home is not None:
        yield shared_broker(Path(home))
        return
    with EmbeddedKafka(tmp_path_factory.mktemp("broker")) as embedded:
        yield embedded


@pytest.fixture
def kafka(broker: EmbeddedKafka, request: pytest.FixtureRequest) -> KafkaConfig:
    """The broker under a prefix that no other test uses. Create topics with `ensure_topics(kafka, n)`."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return KafkaConfig(broker.start(), prefix=f"{name}-{uuid.uuid4().hex[:6]}.")
