"""A monitored model, traffic for it, and the real monitoring worker as a process."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.monitoring import journal
from agents.runtime import is_ready
from schemas.codec import encode
from schemas.events import (
    GroundTruth,
    Heartbeat,
    JournalRecord,
    ModelState,
    Prediction,
    VersionState,
)
from schemas.topics import (
    DEAD_LETTER_PREFIX,
    GROUND_TRUTH,
    JOINED_DELTAS,
    MONITORING_JOURNAL,
    PREDICTIONS,
    REGISTRY_STATE,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail, read_all
from streams.kafka.records import ERROR_HEADER
from streams.packed import decode_delta, deltas_of, unpack_counters
from streams.panes import PanePlan
from tests.support.plans import plan, prediction, reference
from tests.support.wait import eventually

DAY_MS = 86_400_000
HEARTBEAT = [("ce_type", b"Heartbeat")]
SPECIFICATION = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "3d"
revision_horizon = "7d"
segments = ["origin"]
[features]
distance = "numeric"
origin = "categorical"
[metrics]
primary = "roc_auc"
windows = ["1d", "7d", "4d/4d"]
"""


class Installation:
    """Topics, artifacts and a registered model ``m`` version 1 (the plan of `tests.support.plans.plan`)."""

    def __init__(self, kafka: KafkaConfig, home: Path, partitions: int = 3, **settings: Any) -> None:
        self.kafka = kafka
        self.partitions = partitions
        self.settings = Settings(_env_file=None).model_copy(
            update={
                "home": home,
                "bootstrap_servers": kafka.bootstrap_servers,
                "prefix": kafka.prefix,
                "partitions": partitions,
                "grace_ms": 60_000,
                "commit_interval_ms": 20,
                **settings,
            }
        )
        self.plan: PanePlan = plan()
        ensure_topics(kafka, partitions)

    def register(self, *versions: int, epoch: int = 1) -> None:
        """Put versions of the model into `registry-state`, as the registry does."""
        store = ArtifactStore.of(self.settings)
        spec = store.put(SPECIFICATION.encode(), "specification")
        stats = store.put(encode(reference()), "reference")
        state = ModelState(
            model="m",
            epoch=epoch,
            task="binary",
            champion=versions[-1],
            challenger=None,
            versions=[
                VersionState(
                    version=version,
                    stage="promoted",
                    artifact="0" * 64,
                    reference=stats,
                    specification=spec,
                    registered_epoch=min(version, epoch),
                )
                for version in versions
            ],
        )
        with EventProducer(self.kafka) as producer:
            producer.send(REGISTRY_STATE, encode(state), b"m")

    def worker(self, failpoint: str = "", slot: str = "0") -> Worker:
        """Start the real worker."""
        return Worker(self.settings.model_copy(update={"slot": slot}), failpoint)

    # --------------------------------------------------------------------------------------- reading back

    def journals(self) -> dict[int, list[JournalRecord]]:
        """All journal records by partition."""
        found: dict[int, list[JournalRecord]] = {number: [] for number in range(self.partitions)}
        for record in read_all(self.kafka, MONITORING_JOURNAL):
            if journal.is_join_record(record):
                found[record.partition].append(journal.to_journal(record))
        return found

    def totals(self) -> Counter[str]:
        """The accounting as of the newest journal records."""
        total: Counter[str] = Counter()
        for _, record in journal.newest(self.kafka).values():
            total.update(record.totals)
        return total

    def follow(self) -> Progress:
        """Follow the journal; cheaper than `totals` where one waits."""
        return Progress(self.kafka)

    def merged(self) -> dict[tuple[Any, ...], int]:
        """All contributions in `joined-deltas`, summed; zeros left out."""
        sums: Counter[tuple[Any, ...]] = Counter()
        for record in read_all(self.kafka, JOINED_DELTAS):
            for delta in deltas_of(decode_delta(record.value or b"")):
                for pane in delta.panes:
                    positions, counts = unpack_counters(pane.counters)
                    for position, n in zip(positions.tolist(), counts.tolist(), strict=True):
                        at = (pane.segment, pane.pane_start_ms, pane.effect_start_ms, position)
                        sums[delta.model, delta.version, *at] += n
        return {key: n for key, n in sums.items() if n}

    def dead(self, topic: str) -> list[tuple[int, int, str]]:
        """(partition, offset, reason) of the dead letters of a topic."""
        found = []
        for record in read_all(self.kafka, DEAD_LETTER_PREFIX + topic):
            headers = {name: value or b"" for name, value in record.headers or ()}
            at = (int(headers[ERROR_HEADER + "partition"]), int(headers[ERROR_HEADER + "offset"]))
            found.append((*at, headers[ERROR_HEADER + "reason"].decode()))
        return sorted(found)


class Progress:
    """The accounting as it moves."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._tail = Tail(kafka, [MONITORING_JOURNAL], from_beginning=True)
        self.records: dict[int, list[JournalRecord]] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.close()

    def totals(self, timeout_s: float = 0.05) -> Counter[str]:
        """As of the newest journal records that have arrived."""
        for record in self._tail.poll(timeout_s):
            if journal.is_join_record(record):
                self.records.setdefault(record.partition, []).append(journal.to_journal(record))
        total: Counter[str] = Counter()
        for records in self.records.values():
            total.update(records[-1].totals)
        return total

    def read(self) -> int:
        """Records of both topics accounted for so far."""
        total = self.totals()
        names = ("predictions", "predictions.duplicate", "predictions.dead", "predictions.skipped")
        return sum(total[name] for name in names) + total["labels"] + total["heartbeats"]

    def check_chain(self) -> None:
        """Every commit follows the one before: no number twice, no gap, no record read twice."""
        for records in self.records.values():
            assert [record.sequence for record in records] == list(range(1, len(records) + 1))
            for before, after in pairwise(records):
                for topic, (start, _) in after.slices.items():
                    assert start == before.slices[topic][1]
                assert after.watermark_ms >= before.watermark_ms


class Worker:
    """``driftline agent monitoring`` as a process of its own."""

    def __init__(self, settings: Settings, failpoint: str = "") -> None:
        self.settings = settings
        environment = settings.environment() | ({"DRIFTLINE_FAILPOINT": failpoint} if failpoint else {})
        home = settings.home
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "monitoring.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", "agent", "monitoring"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ready(self, timeout: float = 60) -> Worker:
        """Wait until it works."""

        def check() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return is_ready(self.settings, "monitoring", self.process.pid)

        eventually(check, timeout=timeout)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def wait(self, timeout: float = 60) -> int:
        """Its exit code once it ended by itself."""
        return self.process.wait(timeout)


@dataclass
class Traffic:
    """Seeded traffic, and what was sent."""

    seed: int = 0
    start_ms: int = 20_000 * DAY_MS
    predictions: list[Prediction] = field(default_factory=list)
    truths: list[GroundTruth | str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)

    def make(self, count: int, days: float) -> list[tuple[str, str, bytes | None]]:
        """`count` predictions over `days` with labels, duplicates, corrections, conflicts, late and orphaned labels.

        Returns
        -------
        list of (topic, key, value)
            In order of event time.
        """
        rng = random.Random(self.seed)
        events: list[tuple[int, int, Prediction | GroundTruth | str]] = []
        for number in range(count):
            at = self.start_ms + int(number * days * DAY_MS / count)
            key = f"{self.seed}-{number}"
            p = prediction(
                key, at, value=rng.randint(0, 1), probability=rng.random(), origin=rng.choice(["JFK", "LGA"])
            )
            events.append((at, 0, p))
            fate = rng.random()
            labelled_at = at + rng.randrange(60_000, 3 * DAY_MS)
            label = GroundTruth(prediction_id=key, event_time_ms=labelled_at, label=rng.randint(0, 1))
            if fate < 0.03:
                continue
            if fate < 0.05:
                label = msgspec.structs.replace(label, event_time_ms=at + 3 * DAY_MS + 60_000 + rng.randrange(DAY_MS))
            events.append((label.event_time_ms, 1, label))
            if fate < 0.08:
                events.append((at, 0, p))
            elif fate < 0.10:
                events.append((at, 0, msgspec.structs.replace(p, prediction=1 - int(p.prediction))))  # type: ignore[arg-type]
            elif fate < 0.13:
                events.append((label.event_time_ms, 1, label))
            elif fate < 0.18:
                later = label.event_time_ms + rng.randrange(1, DAY_MS)
                fixed = msgspec.structs.replace(label, event_time_ms=later, label=1 - int(label.label or 0), revision=1)
                events.append((later, 1, fixed))
            elif fate < 0.20:
                events.append((label.event_time_ms, 1, key))
            elif fate < 0.22:
                stray = msgspec.structs.replace(label, prediction_id=f"stray-{key}")
                events.append((label.event_time_ms, 1, stray))
        events.sort(key=lambda item: item[0])
        out: list[tuple[str, str, bytes | None]] = []
        for _, _, event in events:
            if isinstance(event, Prediction):
                self.predictions.append(event)
                out.append((PREDICTIONS, event.prediction_id, encode(event)))
            elif isinstance(event, GroundTruth):
                self.truths.append(event)
                out.append((GROUND_TRUTH, event.prediction_id, encode(event)))
            else:
                self.truths.append(event)
                out.append((GROUND_TRUTH, event, None))
        return out

    def send(self, producer: EventProducer, events: Sequence[tuple[str, str, bytes | None]]) -> None:
        """Send some of what `make` returned."""
        for topic, key, value in events:
            producer.send(topic, value, key.encode())
            self.sent[topic] += 1

    def beat(self, producer: EventProducer, at_ms: int, partitions: int) -> None:
        """A heartbeat on every partition of both topics."""
        for topic in (PREDICTIONS, GROUND_TRUTH):
            for number in range(partitions):
                producer.send(topic, encode(Heartbeat(event_time_ms=at_ms)), None, HEARTBEAT, number)
                self.sent["heartbeats"] += 1
