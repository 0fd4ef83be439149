"""`Dockerfile` and `docker-compose.yml` without an engine: every agent a service of one image, healthy, not exposed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.config import Settings
from agents.runtime import AGENTS
from streams.kafka.jars import KAFKA
from streams.native.library import FILE

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = [*AGENTS, "prepare"]


def test_every_agent_is_a_service_of_its_own() -> None:
    assert set(SERVICES) == {"kafka", "postgres", *OURS}
    for name in AGENTS:
        assert SERVICES[name]["command"] == ["agent", name]


def test_all_agents_run_from_one_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"driftline:{version}"}
    assert {SERVICES[name]["build"] for name in OURS} == {"."}


def test_every_service_that_stays_up_has_a_health_check_of_its_own() -> None:
    for name in (*AGENTS, "kafka", "postgres"):
        check = SERVICES[name]["healthcheck"]
        assert check["test"][0] == "CMD"
        assert check["interval"]
        assert check["retries"]
        if name not in ("gateway", "kafka", "postgres"):
            assert check["test"][1:] == ["python", "-m", "agents.health", name]


def test_agents_wait_for_topics_and_tables_and_those_for_broker_and_database() -> None:
    for name in AGENTS:
        assert SERVICES[name]["depends_on"] == {"prepare": {"condition": "service_completed_successfully"}}
    assert SERVICES["prepare"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
    }
    assert SERVICES["prepare"]["restart"] == "no"
    assert SERVICES["prepare"]["entrypoint"] == ["python", "-m", "agents.prepare"]


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_agents_run_without_rights() -> None:
    assert re.search(r"^USER (?!root)\w+", DOCKERFILE, re.MULTILINE)
    for name in OURS:
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", OURS)
def test_settings_in_the_environment_exist_and_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = SERVICES[name]["environment"]
    known = {f"DRIFTLINE_{field.upper()}" for field in Settings.model_fields} | {"KAFKA_BOOTSTRAP_SERVERS"}
    assert set(environment) <= known
    for key, value in environment.items():
        monkeypatch.setenv(key, substitute(value))
    settings = Settings()
    settings.check_safety()
    assert settings.bootstrap_servers == "kafka:19092"
    assert settings.database == "postgresql://driftline:given@postgres:5432/driftline"


def substitute(value: str) -> str:
    """What Compose does with ``${NAME:-default}`` and ``${NAME:?message}``."""
    value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "given", value)


def test_passwords_come_from_outside() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for line in text.splitlines():
        if re.search(r"password|secret|://\w+:[^/]*@", line, re.IGNORECASE) and not line.lstrip().startswith("#"):
            assert "${" in line or "no-new-privileges" in line, line


def test_the_broker_is_the_embedded_one_s_version_and_its_listeners_are_consistent() -> None:
    kafka = SERVICES["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA.rsplit(':', 1)[1]}"
    environment = kafka["environment"]
    listeners = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
    advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(listeners) == set(protocols)
    assert set(advertised) == set(listeners) - {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    for name, address in advertised.items():
        assert address.rsplit(":", 1)[1] == listeners[name].rsplit(":", 1)[1]
    assert advertised["INTERNAL"] == SERVICES["registry"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert kafka["ports"] == [f"{advertised['HOST']}:9092"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_native_core_is_built_by_a_compiler_that_can_and_gets_into_the_wheel() -> None:
    rust = re.search(r"^FROM rust:(\d+)\.(\d+)\S* AS native$", DOCKERFILE, re.MULTILINE)
    least = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text())["package"]["rust-version"]
    assert rust is not None
    assert (int(rust[1]), int(rust[2])) >= tuple(map(int, least.split(".")))
    copied = DOCKERFILE.index(f"COPY --from=native /build/streams/native/{FILE.name} streams/native/")
    assert DOCKERFILE.index("scripts/native.sh --strict") < copied < DOCKERFILE.index("pip wheel ")
    assert f"streams/native/*{FILE.suffix}" in (ROOT / ".dockerignore").read_text().splitlines(), "one from elsewhere"


def test_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_the_image_is_built_from_the_lock_and_from_files_that_exist() -> None:
    assert "--require-hashes" in DOCKERFILE
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f"{source} is not let into the build"
    locked = re.search(r"^hatchling==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert locked is not None
    assert f"hatchling=={locked[1]} " in DOCKERFILE
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert all(re.fullmatch(r"(python:3\.1[123]|rust:1\.\d+\.\d+)-slim-\w+", base) for base in bases)
    assert len({base.rsplit("-", 1)[1] for base in bases}) == 1, "the native core is built for another C library"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert 'ENTRYPOINT ["driftline"]' in DOCKERFILE
    assert "driftline" in scripts
