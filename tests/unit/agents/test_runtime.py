"""Readiness, the end with the owner, and where Kafka is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents.bootstrap import kafka_config, run_agent
from agents.config import Settings, load_settings
from agents.health import works
from agents.runtime import AGENTS, clear_ready, is_ready, mark_ready
from schemas.errors import BrokerUnreachableError, ConfigurationError, UnsafeSettingError
from tests.support.wait import eventually

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, bootstrap_servers=None)


def test_what_has_settled_is_not_looked_through_again() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import gc; from agents.runtime import settle; settle(); print(len(gc.get_objects()))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) < 1_000


def test_readiness_belongs_to_a_process(settings: Settings) -> None:
    assert not is_ready(settings, "serving")
    assert not works(settings, "serving")
    mark_ready(settings, "serving")
    mark_ready(settings, "serving")
    assert is_ready(settings, "serving")
    assert is_ready(settings, "serving", os.getpid())
    assert not is_ready(settings, "serving", os.getpid() + 1)
    assert not is_ready(settings, "gateway")
    assert works(settings, "serving")
    clear_ready(settings, "serving")
    clear_ready(settings, "serving")
    assert not is_ready(settings, "serving")


def test_an_agent_that_died_is_not_healthy_although_it_was_ready(settings: Settings) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark_ready(settings, "serving")
    (settings.home / "run" / "serving.ready").write_text(str(gone.pid))
    assert not works(settings, "serving")


OWNER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(__import__("os").getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""
PLAIN = """
import sys, time
from agents.runtime import end_with_owner
end_with_owner(int(sys.argv[1]))
time.sleep(60)
"""
ORDERLY = """
import pathlib, sys, threading
from agents.runtime import end_with_owner
stop = threading.Event()
end_with_owner(int(sys.argv[1]), stop)
stop.wait(60)
pathlib.Path({path!r}).touch()
"""


@pytest.mark.parametrize("orderly", [False, True])
def test_a_child_ends_when_its_owner_is_killed(tmp_path: Path, orderly: bool) -> None:
    path = tmp_path / "ended-in-order"
    code = ORDERLY.format(path=str(path)) if orderly else PLAIN
    owner = subprocess.Popen([sys.executable, "-c", OWNER, code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    eventually(lambda: not Path(f"/proc/{child}").exists(), timeout=10)
    assert path.exists() == orderly


def test_your_broker_comes_first(settings: Settings) -> None:
    yours = settings.model_copy(update={"bootstrap_servers": "127.0.0.1:9", "prefix": "blue."})
    config = kafka_config(yours)
    assert config.bootstrap_servers == "127.0.0.1:9"
    assert config.topic("alerts") == "blue.alerts"


def test_plaintext_off_loopback_is_refused(settings: Settings) -> None:
    with pytest.raises(UnsafeSettingError, match=r"kafka\.example:9092"):
        kafka_config(settings.model_copy(update={"bootstrap_servers": "kafka.example:9092"}))


def test_no_broker_anywhere_names_home_and_both_remedies(settings: Settings) -> None:
    with pytest.raises(BrokerUnreachableError) as caught:
        kafka_config(settings)
    text = str(caught.value)
    assert str(settings.home) in text
    assert "driftline up" in text
    assert "KAFKA_BOOTSTRAP_SERVERS" in text


def test_an_unknown_agent_is_refused_with_the_names_there_are(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="'surfing'") as caught:
        run_agent("surfing", settings)
    assert all(name in caught.value.remedy for name in AGENTS)
