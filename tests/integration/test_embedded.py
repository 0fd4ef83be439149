"""The embedded broker's life: started once, found again, keeps its data, never outlives its owner."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import BrokerError
from schemas.topics import CATALOGUE, PREDICTIONS
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka, find_broker
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.wait import eventually

TOPIC = {PREDICTIONS: CATALOGUE[PREDICTIONS]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module: every start after the first finds the storage formatted."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def owned(home: Path) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(home) as broker:
        yield broker


def values(bootstrap: str) -> list[bytes | None]:
    return [record.value for record in read_all(KafkaConfig(bootstrap), PREDICTIONS)]


def java_of(home: Path) -> list[int]:
    """Process ids of JVMs that work on this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(home / "kafka" / "server.properties").encode() in command and b"kafka.Kafka" in command:
            found.append(int(entry.name))
    return found


def test_started_once_found_by_others_and_kept_over_a_restart(owned: EmbeddedKafka, home: Path) -> None:
    address = owned.start()
    assert address.startswith("127.0.0.1:")
    ensure_topics(KafkaConfig(address), 1, TOPIC)
    with EventProducer(KafkaConfig(address)) as producer:
        producer.send(PREDICTIONS, b"kept")
    other = EmbeddedKafka(home)
    processes = java_of(home)
    assert other.start() == address
    assert java_of(home) == processes, "a second start must not start a second broker"
    assert owned.owned
    assert not other.owned
    assert other.running()
    other.stop()  # somebody else may stop it too, in order
    assert not owned.running()
    assert java_of(home) == []
    assert find_broker(home) is None
    assert owned.start() == address, "the same port again"
    assert values(address) == [b"kept"]


OWNER = """
import sys, time
from pathlib import Path
from streams.kafka.embedded import EmbeddedKafka
print(EmbeddedKafka(Path(sys.argv[1])).start(), flush=True)
time.sleep(600)
"""


def owner_of(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("127.0.0.1:")
    return process


def test_the_broker_dies_with_a_killed_owner_and_the_next_start_finds_the_data(home: Path) -> None:
    owner = owner_of(home)
    assert java_of(home)
    owner.kill()
    owner.communicate()
    # Started while the old one is still going down: waits for it instead of using a broker about to end.
    with EmbeddedKafka(home) as broker:
        assert broker.owned
        assert values(broker.start()) == [b"kept"]
    assert java_of(home) == []


def test_the_broker_dies_when_its_wrapper_is_killed(owned: EmbeddedKafka, home: Path) -> None:
    state = find_broker(home)
    assert state is not None
    [java] = [pid for pid in java_of(home) if pid != state.pid]
    os.kill(state.pid, signal.SIGKILL)
    eventually(lambda: java not in java_of(home) and not owned.running(), timeout=30)
    address = owned.start()
    assert owned.owned
    assert values(address) == [b"kept"]


def test_a_port_taken_meanwhile_is_no_obstacle(home: Path) -> None:
    port = int((home / "kafka" / "port").read_text())
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with EmbeddedKafka(home) as broker:
            address = broker.start()
            assert address != f"127.0.0.1:{port}"
            assert values(address) == [b"kept"]


def test_a_port_asked_for_that_is_taken_is_refused(home: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} is taken"):
            EmbeddedKafka(home, port=port).start()
    assert java_of(home) == []


def test_a_stale_or_broken_state_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "broker.json").write_text(f'{{"pid": {os.getpid()}, "port": 1, "owner": 1}}')
    assert find_broker(tmp_path) is None
    (tmp_path / "kafka" / "broker.lock").touch()
    assert find_broker(tmp_path) is None, "a process id that lives proves nothing: the lock does"
    (tmp_path / "kafka" / "broker.json").write_text("{")
    assert find_broker(tmp_path) is None
    broker = EmbeddedKafka(tmp_path)
    assert not broker.running()
    broker.stop()


def test_a_broker_that_cannot_start_says_why(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "kafka", tmp_path / "kafka")
    properties = tmp_path / "kafka" / "data" / "meta.properties"
    properties.write_text(properties.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(BrokerError, match=r"node\.id|node id") as caught:
        EmbeddedKafka(tmp_path).start()
    assert caught.value.where == str(tmp_path / "logs" / "kafka.log")
    assert java_of(tmp_path) == []


def test_an_altered_jar_is_refused_before_anything_runs(tmp_path: Path) -> None:
    from streams.kafka.jars import install_jars

    offline = tmp_path / "offline"
    offline.mkdir()
    for jar in install_jars():
        shutil.copyfile(jar, offline / jar.name.split("-", 1)[1])
    altered = next(offline.glob("kafka-clients-*.jar"))
    with altered.open("ab") as file:
        file.write(b"x")
    actual = hashlib.sha256(altered.read_bytes()).hexdigest()
    home = tmp_path / "home"
    with pytest.raises(BrokerError, match=rf"{altered.name} is {actual}"):
        EmbeddedKafka(home, jars_url=str(offline), cache_dir=tmp_path / "cache").start()
    assert java_of(home) == []
    assert not list((tmp_path / "cache" / "jars").glob("*kafka-clients*"))


def test_every_home_has_an_identity_of_its_own_also_from_the_kept_template(tmp_path: Path) -> None:
    from streams.kafka.broker_storage import format_storage, java_command, properties_text
    from streams.kafka.jars import install_jars

    java = java_command(install_jars())
    identities = []
    for name in ("first", "second", "second"):
        data = tmp_path / name / "data"
        properties = tmp_path / name / "server.properties"
        properties.parent.mkdir(exist_ok=True)
        properties.write_text(properties_text(data, 1, 2))
        format_storage(java, properties, data, tmp_path / "cache")
        meta = dict(line.split("=", 1) for line in (data / "meta.properties").read_text().splitlines() if "=" in line)
        identities.append((meta["cluster.id"], meta["directory.id"]))
        assert meta["node.id"] == "1"
        assert (data / "bootstrap.checkpoint").stat().st_size > 100
        java = ["false"]  # from here on, no JVM may be needed
    first, second, again = identities
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert second == again, "formatted once"
