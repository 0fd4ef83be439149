"""`driftline bench alert-latency`: how long after the record that tips it an alert can be read on `alerts`.

Many small models are watched by the real agents (`driftline agent monitoring`, `driftline agent alerting`) on the
embedded broker. Event time passes a day a cycle: a producer sends a day of predictions and labels of all models, spread
over the cycle, and at its end a heartbeat to every partition of both topics, which ends the day. Each day another model
has every label turned round; labels may come until the next day, at whose end its quality is judged. What tips its
incident is the last heartbeat: nothing before it lets the day end. The latency is the time from just before the
heartbeats were handed to the producer to the moment a consumer of committed records received the alert that opens the
model's incident, both on one clock. It holds the client's linger, the join's batch and transaction, the aggregation's
(which closes the day of every model), the alerting agent's database transaction and its outbox.

On a day of event time only one model fails, so each has an incident of its own; ``not_seen`` are models that chance had
given one before their day. The first cycles (`warm_up`) do not count.

Expected time: three minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry.service import Registry
from agents.runtime import is_ready
from benchmarks.installation import Installation, announce, prepare
from benchmarks.latency import percentile
from benchmarks.machine import machine
from benchmarks.processes import Child, cores
from benchmarks.running import wait_ready, wait_until
from benchmarks.worker import Worker
from schemas.codec import decode, encode
from schemas.events import FLEET, Alert, GroundTruth, Heartbeat, Prediction
from schemas.reference import ReferenceStatistics
from schemas.specification import parse
from schemas.topics import ALERTS, GROUND_TRUTH, PREDICTIONS
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail
from streams.reference import compile_reference

REACH_S: Final = 2.0
PARTITIONS: Final = 4
DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
CYCLE_S: Final = 2.0
WARM_UP: Final = 5
_CHUNKS: Final = 20
_SEEN_S: Final = 30.0
_REFERENCE_DAYS: Final = 20
_HEARTBEAT: Final = [("ce_type", b"Heartbeat"), ("content-type", b"application/json")]

SPECIFICATION: Final = """
[model]
name = "NAME"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "1h"
[features]
x = "numeric"
z = "numeric"
[metrics]
primary = "roc_auc"
watch = ["accuracy", "brier"]
windows = ["1d"]
[retraining]
triggers = ["quality"]
"""

Note = Callable[[str], None]


def run(
    *,
    probes: int = 60,
    models: int | None = None,
    events: int = 150,
    cycle_s: float = CYCLE_S,
    warm_up: int = WARM_UP,
    use_cores: int | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench alert-latency --json``.

    Parameters
    ----------
    probes : int
        Incidents that count.
    models : int, optional
        Models watched; default: one for each incident.
    events : int
        Predictions, and as many labels, of a model and cycle.
    cycle_s : float
        Seconds that a day of event time takes.
    warm_up : int
        Incidents before that do not count.
    use_cores : int, optional
        Run agents, broker and producer on that many cores.
    note : callable
        Gets lines of progress.
    """
    count = max(models or 0, probes + warm_up + 1)
    names = [f"watched-{number:03}" for number in range(count)]
    with ExitStack() as stack:
        chosen = stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        servers = stack.enter_context(EmbeddedKafka(home)).start()
        place = _install(servers, home, names)
        worker = stack.enter_context(Worker(place.settings))
        alerting = stack.enter_context(_agent("alerting", place.settings))
        wait_ready(worker)
        wait_until(lambda: _ready(alerting, place.settings), [worker], "alerting is not ready", 120.0)
        producer = stack.enter_context(EventProducer(place.kafka, linger_ms=0))
        tail = stack.enter_context(Tail(place.kafka, [ALERTS], from_beginning=False, fetch_wait_ms=20))
        tail.poll(0.0)
        probing = _Probing(names, events, place.settings.grace_ms)
        began = time.monotonic()
        for number in range(probes + warm_up + 1):
            worker.child.check()
            alerting.check()
            probing.cycle(number, producer, tail, cycle_s)
        rate = 2 * len(names) * events * (probes + warm_up + 1) / (time.monotonic() - began)
        deadline = time.monotonic() + _SEEN_S
        while len(probing.seen) < len(probing.tipped) and time.monotonic() < deadline:
            probing.look(tail, 0.1)
    found = probing.latencies(warm_up)
    missing = probes - len(found)
    p99 = percentile(found, 99)
    note(f"alert-latency: p50 {percentile(found, 50):.2f} s, p99 {p99:.2f} s of {len(found)} incidents")
    ratio = round(p99 / REACH_S, 4)
    return {
        "bench": "alert-latency",
        "machine": machine(),
        "rounds": 1,
        "settings": {
            "partitions": PARTITIONS,
            "models": len(names),
            "events_per_model_and_cycle": events,
            "cycle_s": cycle_s,
            "commit_interval_ms": place.settings.commit_interval_ms,
            "cores": chosen,
        },
        "rows": [
            {
                "name": "driftline",
                "version": version("driftline"),
                "value": round(p99, 3),
                "unit": "s (p99)",
                "spread": [round(min(found), 3), round(max(found), 3)] if found else None,
                **{f"p{q}_s": round(percentile(found, q), 3) for q in (50, 90, 99)},
                "max_s": round(max(found, default=float("inf")), 3),
                "incidents": len(found),
                "not_seen": missing,
                "false": probing.false,
                "events_per_s": round(rate),
                "parts_s": {name: round(value, 3) for name, value in probing.parts(warm_up).items()},
            }
        ],
        "ratios": {"p99/reach": ratio},
        "ratio_range": {"p99/reach": [ratio, ratio]},
    }


@dataclass
class _Probing:
    """Days of traffic, one model's labels turned round on each, and the alerts they lead to."""

    names: list[str]
    events: int
    grace_ms: int
    tipped: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)
    false: int = 0
    start_ms: int = 0

    def __post_init__(self) -> None:
        # In the past, so that days may pass in seconds without an event being of the future.
        start = datetime.now(UTC) - timedelta(days=len(self.names) + 30)
        self.start_ms = int(start.timestamp() * 1000) // DAY_MS * DAY_MS

    def cycle(self, number: int, producer: EventProducer, tail: Tail, seconds: float) -> None:
        """Send a day, end it, and look for alerts meanwhile."""
        began = time.monotonic()
        records = self._day(number)
        size = -(-len(records) // _CHUNKS)
        for part in range(_CHUNKS):
            for topic, key, value in records[part * size : (part + 1) * size]:
                producer.send(topic, value, key)
            self.look(tail, max(0.0, began + seconds * (part + 1) / _CHUNKS - time.monotonic()))
        producer.flush()
        end = self.start_ms + (number + 1) * DAY_MS
        beat = encode(Heartbeat(event_time_ms=end + self.grace_ms + 1000))
        if number:  # a day's labels may come until the next day: its quality is told at the end of that
            self.tipped[self.names[number - 1]] = time.monotonic()
            self.sent[self.names[number - 1]] = time.time()
        for topic in (PREDICTIONS, GROUND_TRUTH):
            for partition in range(PARTITIONS):
                producer.send(topic, beat, None, _HEARTBEAT, partition)
        producer.flush()

    def look(self, tail: Tail, timeout_s: float) -> None:
        """Take in alerts that arrive, for at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        while True:
            records = tail.poll(max(0.0, min(until - time.monotonic(), 0.05)))
            now = time.monotonic()
            for record in records:
                alert = decode(record.value or b"", Alert)
                if alert.status != "opened":
                    continue
                if alert.model in self.tipped and alert.model not in self.seen:
                    self.seen[alert.model] = now
                    self.sent[alert.model] = record.timestamp_ms / 1000 - self.sent[alert.model]
                else:
                    self.false += alert.model != FLEET
            if now >= until:
                return

    def latencies(self, warm_up: int) -> list[float]:
        """Seconds of the incidents that count."""
        return [self.seen[name] - at for name, at in self._counting(warm_up) if name in self.seen]

    def parts(self, warm_up: int) -> dict[str, float]:
        """Median seconds until the broker had the alert, and from there to the reader."""
        found = [(self.sent[name], self.seen[name] - at) for name, at in self._counting(warm_up) if name in self.seen]
        if not found:
            return {}
        appended = percentile([first for first, _ in found], 50)
        return {"to_the_log": appended, "to_the_reader": percentile([whole - first for first, whole in found], 50)}

    def _counting(self, warm_up: int) -> list[tuple[str, float]]:
        return list(self.tipped.items())[warm_up:]

    def _day(self, number: int) -> list[tuple[str, bytes, bytes]]:
        """A day's records in the order of event time, labels half an hour after their predictions."""
        records: list[tuple[int, str, bytes, bytes]] = []
        for index, name in enumerate(self.names):
            x, z, score, label = _rows(self.events, number * 1_000 + index)
            truth = 1 - label if index == number else label
            step = (DAY_MS - 2 * _HOUR_MS) // self.events
            for row in range(self.events):
                at = self.start_ms + number * DAY_MS + _HOUR_MS // 2 + row * step
                identity = f"{name}-{number}-{row}"
                prediction = Prediction(
                    prediction_id=identity,
                    model=name,
                    version=1,
                    event_time_ms=at,
                    features={"x": float(x[row]), "z": float(z[row])},
                    prediction=int(score[row] >= 0.5),
                    probability=float(score[row]),
                )
                told = GroundTruth(prediction_id=identity, event_time_ms=at + _HOUR_MS // 2, label=int(truth[row]))
                key = identity.encode()
                records.append((at, PREDICTIONS, key, encode(prediction)))
                records.append((told.event_time_ms, GROUND_TRUTH, key, encode(told)))
        return [record[1:] for record in sorted(records, key=lambda record: record[0])]


def _rows(count: int, seed: int) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=count), rng.normal(size=count)
    score = 1 / (1 + np.exp(-2.0 * x))
    return x, z, score, (rng.random(count) < score).astype(int)


def _install(servers: str, home: Path, names: list[str]) -> Installation:
    place = prepare(servers, home, "alerts", partitions=PARTITIONS)
    reference = _reference()
    announce(place, ((name, SPECIFICATION.replace("NAME", name), reference) for name in names))
    engine = make_engine(place.settings.database)
    upgrade(engine)
    sessions = session_factory(engine)
    registry = Registry(sessions, ArtifactStore.of(place.settings))
    with sessions.begin() as session:
        for name in names:
            registry.register_model(session, SPECIFICATION.replace("NAME", name), "bench")
    engine.dispose()
    return place


def _reference() -> ReferenceStatistics:
    parts = [_rows(500, 1_000_000 + day) for day in range(_REFERENCE_DAYS)]
    x, z, score, label = (np.concatenate([part[at] for part in parts]) for at in range(4))
    times = np.concatenate([np.full(500, day * DAY_MS + 1) for day in range(_REFERENCE_DAYS)])
    return compile_reference(
        parse(SPECIFICATION),
        {"x": x, "z": z},
        labels=label,
        predictions=(score >= 0.5).astype(int),
        scores=score,
        event_time_ms=times,
        importances={"x": 1.0, "z": 0.0},
    )


def _agent(name: str, settings: Settings) -> Child:
    return Child(
        [sys.executable, "-m", "agents.cli", "agent", name],
        settings.home / f"{name}.log",
        environment=settings.environment(),
    )


def _ready(agent: Child, settings: Settings) -> bool:
    agent.check()
    return is_ready(settings, "alerting", agent.pid)
