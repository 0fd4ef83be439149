"""What a peer is: something that can be built here or says why not, started on topics, and asked what it found."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Child
from schemas.topics import DAY_MS, Topic
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail

CONFUSION = ("tn", "fp", "fn", "tp")


@dataclass(frozen=True)
class Job:
    """One run of a peer.

    Parameters
    ----------
    kafka : KafkaConfig
        Address and prefix of the topics.
    warm_up : KafkaConfig
        Smaller topics of the same kind, for peers whose runtime gets faster as it runs.
    warm_up_events : int
        Predictions in them, and as many labels.
    group : str
        Consumer group, without prefix.
    folder : Path
        For state, settings and logs; empty.
    commit_interval_ms, horizon_ms : int
        As the worker has them.
    partitions : int
    events : int
        Predictions in the topics, and as many labels.
    """

    kafka: KafkaConfig
    warm_up: KafkaConfig
    warm_up_events: int
    group: str
    folder: Path
    commit_interval_ms: int
    horizon_ms: int
    partitions: int
    events: int

    @property
    def output(self) -> str:
        """Topic (without prefix) that gets the windowed counts, as JSON."""
        return f"counts-of-{self.group}"

    @property
    def warm_up_output(self) -> str:
        """Topic (without prefix) for the output of warming up; nobody reads it."""
        return f"{self.output}-warm-up"

    def create_outputs(self) -> None:
        """Create both output topics, under the prefix of `kafka`."""
        for name in (self.output, self.warm_up_output):
            topic = Topic(name, "model", "traffic", DAY_MS, False, "windowed counts of a peer")
            ensure_topics(self.kafka, self.partitions, {topic.name: topic})


class Peer(Protocol):
    """How `benchmarks.join` sees a peer."""

    name: str
    full: bool
    """Whether it is given all of the traffic; slow peers get a part."""

    def prepare(self, cache: Path) -> str:
        """Build what it needs, in a folder of its own below `cache`; returns its version.

        Raises
        ------
        UnavailableError
        """

    def about(self) -> Mapping[str, object]:
        """Its settings, for the result."""

    def start(self, job: Job) -> Child:
        """The process, not started yet."""


def fingerprint(folder: Path) -> str:
    """Hash of a file, or of the files below a folder: what was built from them need not be built again."""
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        if "target" in path.relative_to(folder).parts:
            continue
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def read_counts(job: Job, pairs: int, *, timeout_s: float = 30.0) -> dict[str, int]:
    """Sums of the newest record of every (partition, window) in the output topic, once they hold `pairs`.

    Notes
    -----
    What a peer sends at intervals may come after its last commit of the input: waited for, but not measured. After
    `timeout_s` whatever there is, is the result.
    """
    newest: dict[tuple[int, int], dict[str, int]] = {}
    deadline = time.monotonic() + timeout_s
    with Tail(job.kafka, [job.output], from_beginning=True) as tail:
        while True:
            for record in tail.poll(0.2):
                assert record.value is not None
                found = json.loads(record.value)
                newest[found["partition"], found["window_start_ms"]] = found
            counts = {name: sum(found[name] for found in newest.values()) for name in CONFUSION}
            if sum(counts.values()) >= pairs or time.monotonic() > deadline:
                return {"pairs": sum(counts.values()), **counts}
