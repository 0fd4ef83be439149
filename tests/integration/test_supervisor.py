"""The supervisor with toy agents on the session's broker: starts, restarts, stops, ends with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import supervisor_process
from agents.bootstrap import kafka_config
from agents.config import Settings, load_settings
from agents.supervisor import Supervisor, is_running, read_status
from schemas.errors import BrokerUnreachableError, ConfigurationError, DriftlineError, NotFoundError
from schemas.topics import CATALOGUE
from streams.kafka.admin import check_broker, partition_counts
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import find_broker
from tests.support.wait import eventually

TOY = "tests.support.toy_system"


@pytest.fixture
def settings(kafka: KafkaConfig, tmp_path: Path) -> Settings:
    return load_settings(
        home=tmp_path / "home", bootstrap_servers=kafka.bootstrap_servers, prefix=kafka.prefix, partitions=1
    )


@pytest.fixture
def system(settings: Settings) -> Iterator[Supervisor]:
    supervisor = Supervisor(settings, module=TOY)
    yield supervisor
    supervisor.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_starts_everything_and_stops_in_order(system: Supervisor, settings: Settings, kafka: KafkaConfig) -> None:
    system.start()
    assert set(partition_counts(kafka)) == set(CATALOGUE)
    assert (settings.home / "migrated").exists()
    pids = system.pids()
    assert set(pids) == {"steady", "broken"}
    assert all(alive(pid) for pid in pids.values())
    assert is_running(settings.home)
    assert system.stop()
    assert not any(alive(pid) for pid in pids.values())
    assert (settings.home / "steady.stopped").exists(), "SIGTERM first, so that agents end in order"
    assert not is_running(settings.home)
    assert system.status() is None
    assert not system.stop()


def test_the_first_wave_is_ready_before_the_others_start(system: Supervisor, settings: Settings) -> None:
    system.start()
    ready = (settings.home / "run" / "steady.ready").stat().st_mtime
    later = (settings.home / "logs" / "broken.log").stat()
    assert ready < later.st_ctime
    lines = system.log.read_text().splitlines()
    order = [next(i for i, line in enumerate(lines) if f"{name} is ready" in line) for name in ("steady", "broken")]
    assert order == sorted(order)


def test_a_killed_agent_comes_back(system: Supervisor) -> None:
    system.start()
    killed = system.kill("steady", signal.SIGKILL)
    again = eventually(lambda: (pid := system.pids().get("steady")) != killed and pid, timeout=30)
    system.wait_ready(timeout_s=10)
    status = system.status()
    assert status is not None
    assert status.agents["steady"].restarts == 1
    assert status.agents["steady"].last_exit == -signal.SIGKILL
    assert alive(again)
    system.check()
    with pytest.raises(NotFoundError):
        system.kill("nobody")


def test_an_agent_that_keeps_failing_is_named_with_the_end_of_its_log(system: Supervisor, settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "break").touch()
    with pytest.raises(DriftlineError, match="broken agent ended 5 times in a row") as caught:
        system.start()
    assert "broken on purpose" in caught.value.remedy
    assert not is_running(settings.home)


def test_a_second_supervisor_of_one_home_is_refused(system: Supervisor, settings: Settings) -> None:
    system.start()
    with pytest.raises(ConfigurationError, match="already runs"):
        Supervisor(settings, module=TOY).start()
    system.check()


def test_without_a_broker_the_starter_gets_the_same_error(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(BrokerUnreachableError, match=r"127\.0\.0\.1:1"):
        Supervisor(nowhere, module=TOY).start()
    assert not is_running(settings.home)


def test_the_embedded_broker_is_started_again_on_its_port_and_stopped_at_the_end(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", bootstrap_servers=None, partitions=1)
    system = Supervisor(settings, module=TOY)
    system.start()
    try:
        before = kafka_config(settings)
        state = find_broker(settings.home)
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)

        def back() -> bool:
            again = find_broker(settings.home)
            return again is not None and again.pid != state.pid

        eventually(back, timeout=60)
        assert kafka_config(settings) == before
        assert set(partition_counts(before)) == set(CATALOGUE)
        system.check()
    finally:
        system.stop()
    assert find_broker(settings.home) is None
    with pytest.raises(BrokerUnreachableError):
        check_broker(before, 1.0)


def _owner(settings: Settings, then: str) -> subprocess.Popen[bytes]:
    code = (
        "from agents.config import load_settings; from agents.supervisor import Supervisor; import time\n"
        f"system = Supervisor(load_settings(), module={TOY!r})\n"
        f"system.start()\n{then}\nprint('started', flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=settings.environment(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    return process


def test_an_owner_killed_leaves_nothing_behind(settings: Settings) -> None:
    owner = _owner(settings, "")
    pids = Supervisor(settings).pids()
    assert len(pids) == 2
    owner.kill()
    owner.communicate()
    eventually(lambda: not is_running(settings.home), timeout=30)
    assert not any(alive(pid) for pid in pids.values())


def test_a_detached_system_outlives_its_owner(settings: Settings) -> None:
    owner = _owner(settings, "system.detach()")
    owner.kill()
    owner.communicate()
    system = Supervisor(settings)
    try:
        with pytest.raises(AssertionError):
            eventually(lambda: not is_running(settings.home), timeout=1)
        system.check()
        assert len(system.pids()) == 2
    finally:
        assert system.stop()


def test_a_killed_supervisor_takes_its_agents_along(system: Supervisor, settings: Settings) -> None:
    system.start()
    status = read_status(settings.home)
    assert status is not None
    pids = system.pids()
    os.kill(status.pid, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids.values()), timeout=30)
    with pytest.raises(DriftlineError, match="supervisor is not running"):
        system.check()


def test_an_agent_that_ignores_sigterm_is_killed_at_the_deadline(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.toy_system import ToySystem

    monkeypatch.setattr(supervisor_process, "STOP_SECONDS", 0.5)
    settings.home.mkdir()
    (settings.home / "stubborn").touch()
    (settings.home / "logs").mkdir()
    process = ToySystem(settings, 0)
    [steady, _] = process._agents
    steady.start()
    assert steady.status.pid is not None
    pid = steady.status.pid
    eventually(lambda: steady.look() or steady.status.state == "ready", timeout=30)
    process._stop()
    assert not alive(pid)
    assert steady.status.last_exit == -signal.SIGKILL
