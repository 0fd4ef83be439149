"""The containers themselves, where a Docker engine answers: Kafka's image as Compose configures it, then everything."""

from __future__ import annotations

import secrets
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.runtime import AGENTS
from schemas.topics import CATALOGUE, PREDICTIONS
from streams.kafka.admin import check_broker, ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if not _answers("docker", "info"):
        pytest.skip("no Docker engine answers on this machine")


pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture
def kafka_container() -> Iterator[KafkaConfig]:
    from testcontainers.core.container import DockerContainer

    service: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["kafka"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    container = DockerContainer(service["image"]).with_bind_ports(9092, port)
    environment = {key: str(value) for key, value in service["environment"].items()}
    environment["KAFKA_ADVERTISED_LISTENERS"] = f"INTERNAL://localhost:19092,HOST://127.0.0.1:{port}"
    environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] = "1@localhost:9093"
    for key, value in environment.items():
        container = container.with_env(key, value)
    with container:
        yield KafkaConfig(f"127.0.0.1:{port}")


def test_kafka_s_image_takes_our_topics_and_records(kafka_container: KafkaConfig) -> None:
    def up() -> bool:
        check_broker(kafka_container, 2.0)
        return True

    eventually(lambda: _quietly(up), timeout=90, interval=1)
    ensure_topics(kafka_container, 2, {PREDICTIONS: CATALOGUE[PREDICTIONS]})
    with EventProducer(kafka_container) as producer:
        producer.send(PREDICTIONS, b"{}", b"k")
    assert [record.value for record in read_all(kafka_container, PREDICTIONS)] == [b"{}"]


def _quietly(function: Any) -> bool:
    from schemas.errors import BrokerError

    try:
        return bool(function())
    except BrokerError:
        return False


def test_the_whole_system_comes_up_healthy(tmp_path: Path) -> None:
    if not _answers("docker", "compose", "version"):
        pytest.skip("Docker answers, but has no compose plugin")
    from testcontainers.compose import DockerCompose

    environment = tmp_path / ".env"
    environment.write_text(f"POSTGRES_PASSWORD={secrets.token_hex(16)}\nCOMPOSE_PROJECT_NAME=driftline-test\n")
    system = DockerCompose(str(ROOT), build=True, wait=False, env_file=str(environment))
    with system:

        def healthy() -> bool:
            states = {container.Service: container.Health for container in system.get_containers()}
            assert {name: states.get(name) for name in AGENTS} == dict.fromkeys(AGENTS, "healthy")
            return True

        eventually(healthy, timeout=300, interval=2)
        with urllib.request.urlopen("http://127.0.0.1:8787/livez", timeout=10) as answer:
            assert answer.status == 200
        assert len(read_all(KafkaConfig("127.0.0.1:9092"), "registry-events")) == 0
