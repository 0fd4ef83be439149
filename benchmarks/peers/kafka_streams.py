"""Kafka Streams: the program below ``kafka-streams/``, built by Maven, in a JVM of this machine's JDK."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import UnavailableError
from benchmarks.peers.base import Job, fingerprint
from benchmarks.processes import Child
from schemas.topics import GROUND_TRUTH, PREDICTIONS

SOURCE = Path(__file__).parent / "kafka-streams"
JVM = ["-Xms1g", "-Xmx2g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
THREADS = 2
SETTINGS: dict[str, object] = {
    "num.stream.threads": THREADS,
    "replication.factor": 1,
    "statestore.cache.max.bytes": 64 << 20,
    "input.buffer.max.bytes": 512 << 20,
    "buffered.records.per.partition": 10_000,
    "topology.optimization": "all",
    "consumer.max.poll.records": 10_000,
    "consumer.fetch.max.bytes": 33_554_432,
    "consumer.max.partition.fetch.bytes": 8_388_608,
    "consumer.auto.offset.reset": "earliest",
    "producer.compression.type": "lz4",
    "producer.batch.size": 262_144,
    "producer.linger.ms": 20,
    "producer.buffer.memory": 128 << 20,
}
_BUILD_S = 900


class KafkaStreams:
    """One guarantee of Kafka Streams.

    Parameters
    ----------
    name : str
    guarantee : str
        ``exactly_once_v2`` or ``at_least_once``.
    lean : bool
        A processor written by hand counts inside the partition, and sends partial windows; else as Kafka Streams' own
        language says it: join, groupBy(model), windowedBy, aggregate, which gives complete windows a model.
    """

    full = True

    def __init__(self, name: str, guarantee: str, *, lean: bool = False) -> None:
        self.name = name
        self._lean = lean
        self._guarantee = guarantee
        self._classes: list[Path] = []

    def about(self) -> Mapping[str, object]:
        """Guarantee, threads, JVM and the Streams configuration."""
        return {
            "guarantee": self._guarantee,
            "program": "join, processor of its own: partial windows" if self._lean else "join, groupBy, aggregate",
            "configuration": {**SETTINGS, "jvm": " ".join(JVM[:3])},
            "state": "RocksDB, changelogged",
        }

    def prepare(self, cache: Path) -> str:
        """Build the program once per source.

        Raises
        ------
        UnavailableError
            No JDK from 17 on, no Maven, or the build failed (the registry cannot be reached).
        """
        _check_tools()
        built = cache / f"kafka-streams-{fingerprint(SOURCE)}"
        jar = built / "target" / "kafka-streams-peer-1.jar"
        if not jar.exists():
            shutil.rmtree(built, ignore_errors=True)
            shutil.copytree(SOURCE, built, ignore=shutil.ignore_patterns("target"))
            try:
                done = subprocess.run(
                    ["mvn", "-B", "-q", "-ntp", "package"],
                    cwd=built,
                    capture_output=True,
                    text=True,
                    timeout=_BUILD_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise UnavailableError(f"Maven did not finish within {_BUILD_S} s") from error
            if done.returncode or not jar.exists():
                told = [line for line in done.stdout.splitlines() if "ERROR" in line]
                raise UnavailableError(f"Maven failed: {' '.join(told[:3])[:400] or done.stderr[-400:]}")
        self._classes = [jar, *sorted((built / "target" / "lib").glob("*.jar"))]
        [version] = [m[1] for p in self._classes if (m := re.fullmatch(r"kafka-streams-([\d.]+)\.jar", p.name))]
        return version

    def start(self, job: Job) -> Child:
        """The JVM, not started yet."""
        settings = {
            **SETTINGS,
            "bootstrap.servers": job.kafka.bootstrap_servers,
            "processing.guarantee": self._guarantee,
            "commit.interval.ms": job.commit_interval_ms,
            "state.dir": job.folder / "state",
            "peer.lean": str(self._lean).lower(),
            "peer.horizon.ms": job.horizon_ms,
            "peer.application.id": job.kafka.group(job.group),
            "peer.predictions": job.kafka.topic(PREDICTIONS),
            "peer.labels": job.kafka.topic(GROUND_TRUTH),
            "peer.output": job.kafka.topic(job.output),
            "peer.warm-up.pairs": job.warm_up_events,
            "peer.warm-up.application.id": f"{job.kafka.group(job.group)}-warm-up",
            "peer.warm-up.predictions": job.warm_up.topic(PREDICTIONS),
            "peer.warm-up.labels": job.warm_up.topic(GROUND_TRUTH),
            "peer.warm-up.output": job.kafka.topic(job.warm_up_output),
        }
        file = job.folder / "streams.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        path = ":".join(str(jar) for jar in self._classes)
        return Child(["java", *JVM, "-cp", path, "peer.Main", str(file)], job.folder / "streams.log")


def _check_tools() -> None:
    for tool, what in (("javac", "a JDK"), ("mvn", "Maven")):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{what} is not installed ({tool} is not on the path)")
    said = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)", said.stdout + said.stderr)
    if found is None or int(found[1]) < 17:
        raise UnavailableError(f"the JDK is older than 17: {said.stdout.strip() or said.stderr.strip()}")
