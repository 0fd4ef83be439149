"""`driftline bench latency`: how long after a label is sent its effect is visible in `quality-metrics`.

First the full rate: a running worker takes a full log of predictions and labels. Then a producer in a process of its
own sends predictions in real time at half of it, each one's label two seconds later, event time going with the clock.

Probes are labels of small models of their own, one model for each partition of `predictions`; their predictions are
sent before. A probe's label is sent every `PROBE_EVERY_S`, to one model after the other. All of a model's labels lie in
one partition, so they are joined in the order they were sent, and the metrics count them (`n`): the m-th label is
visible when a metric of its model with ``n >= m`` is read by a consumer of committed records. The latency is the time
from just before that label was handed to its producer to the moment the metric was received, both on one clock.
It holds the client's linger, the join's batch and transaction, the aggregation's, and the wait for the next provisional
metric (``provisional_interval_ms``). Probes sent in the first seconds (`warm_up_s`) do not count.

Expected time: two minutes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.bulk import Bulk
from benchmarks.gate import id_range, label_chunks, prediction_chunks
from benchmarks.installation import PARTITIONS, WHOLE, Installation, described, install
from benchmarks.machine import machine
from benchmarks.processes import cores
from benchmarks.running import Course, wait_ready, wait_until
from benchmarks.worker import GROUP, TOPICS, Worker
from schemas.codec import decode
from schemas.events import QualityMetric
from schemas.topics import GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS
from streams.join.partitioning import partition_of
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.lag import LagProbe
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail

PROBE_EVERY_S: Final = 0.05
WARM_UP_S: Final = 10.0
DELAY_MS: Final = 2_000
REACH_S: Final = 2.0
_SEEN_S: Final = 30.0
"""Probes that are not visible this long after the last one was sent never will be."""
_CATCH_UP_S: Final = 120.0

Note = Callable[[str], None]


def run(
    *,
    events: int = 1_000_000,
    seconds: float = 60.0,
    rate: float | None = None,
    warm_up_s: float = WARM_UP_S,
    idle: bool = True,
    use_cores: int | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench latency --json``.

    Parameters
    ----------
    events : int
        Predictions, and as many labels, of the run that finds the full rate.
    seconds : float
        How long the load lasts, the warm-up on top.
    rate : float, optional
        Events a second of the load instead of half of the full rate, which is then not measured.
    warm_up_s : float
        Probes sent before do not count.
    idle : bool
        Measure without load, too.
    use_cores : int, optional
        Run worker, broker and producer on that many cores.
    note : callable
        Gets lines of progress.
    """
    with ExitStack() as stack:
        chosen = stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        servers = stack.enter_context(EmbeddedKafka(home)).start()
        full = None
        if rate is None:
            full = _full_rate(servers, home, events)
            rate = full / 2
            note(f"latency: the worker takes {full:,.0f} events/s at most")
        rows = []
        if idle:
            quiet = _measure(servers, home, 0.0, max(seconds / 3, 2.0), min(warm_up_s, 2.0))
            note(f"latency: without load p99 {percentile(quiet.latencies, 99):.2f} s")
            rows.append(quiet.row("no load"))
        loaded = _measure(servers, home, rate, seconds, warm_up_s)
        note(f"latency: at {loaded.rate:,.0f} events/s p99 {percentile(loaded.latencies, 99):.2f} s")
    ratio = round(percentile(loaded.latencies, 99) / REACH_S, 4)
    return {
        "bench": "latency",
        "machine": machine(),
        "rounds": 1,
        "settings": described(
            {
                "provisional_interval_ms": loaded.provisional_ms,
                "probe_every_s": PROBE_EVERY_S,
                "label_delay_ms": DELAY_MS,
                "full_events_per_s": full if full is None else round(full),
                "target_events_per_s": round(rate),
                "cores": chosen,
            }
        ),
        "rows": [*rows, loaded.row("half load" if full else "load")],
        "ratios": {"p99/reach": ratio},
        "ratio_range": {"p99/reach": [ratio, ratio]},
    }


def percentile(values: Sequence[float], q: float) -> float:
    """The nearest-rank percentile: a value that occurred, never one in between; infinite where there is none.

    Examples
    --------
    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99), percentile([], 50)
    (2.0, 4.0, inf)
    """
    if not values:
        return math.inf
    ranked = sorted(values)
    return ranked[max(0, math.ceil(q / 100 * len(ranked)) - 1)]


class Probes:
    """One small model a partition, whose labels are sent one by one and looked for in the metrics.

    Parameters
    ----------
    count : int
        Labels to be sent at most, over all models.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._bulk = [Bulk(count * 2 + 200, model=name, seed=10 + number) for number, name in enumerate(MODELS)]
        self._ids = [_ids_of(bulk, number, count // PARTITIONS + 1) for number, bulk in enumerate(self._bulk)]
        self._sent: dict[str, list[float]] = {name: [] for name in MODELS}
        self._seen: dict[str, list[float]] = {name: [] for name in MODELS}
        self._turn = 0

    def predict(self, producer: EventProducer) -> None:
        """Send all predictions."""
        for bulk, ids in zip(self._bulk, self._ids, strict=True):
            for number in ids:
                [key], [value] = bulk.predictions(number, number + 1)
                producer.send(PREDICTIONS, value, key)
        producer.flush()

    def send(self, producer: EventProducer) -> bool:
        """Send the next label; false when there is none left."""
        model = self._turn % PARTITIONS
        number = len(self._sent[MODELS[model]])
        if self._turn >= self._count:
            return False
        self._turn += 1
        of_model = self._ids[model][number]
        [key], [value] = self._bulk[model].labels(id_range(of_model, of_model + 1))
        self._sent[MODELS[model]].append(time.monotonic())
        producer.send(GROUND_TRUTH, value, key)
        return True

    def look(self, tail: Tail, timeout_s: float) -> None:
        """Take in metrics that arrive."""
        records = tail.poll(timeout_s)
        now = time.monotonic()
        for record in records:
            if not (record.key or b"").startswith(b"probe-"):
                continue
            metric = decode(record.value or b"", QualityMetric)
            if metric.window == WHOLE and metric.segment is None and not metric.estimated:
                seen = self._seen[metric.model]
                seen += [now] * (metric.n - len(seen))

    @property
    def complete(self) -> bool:
        """Whether every label sent is visible."""
        return all(len(self._seen[name]) >= len(self._sent[name]) for name in MODELS)

    def latencies(self, since: float) -> list[float]:
        """Seconds of every label sent after `since` that became visible."""
        return [
            seen - sent
            for name in MODELS
            for sent, seen in zip(self._sent[name], self._seen[name], strict=False)
            if sent >= since
        ]

    def missing(self) -> int:
        """Labels that never became visible."""
        return sum(max(0, len(self._sent[name]) - len(self._seen[name])) for name in MODELS)


MODELS: Final = tuple(f"probe-{number}" for number in range(PARTITIONS))


def _ids_of(bulk: Bulk, partition: int, count: int) -> list[int]:
    """Ids whose keys lie in a partition."""
    keys, _ = bulk.predictions(0, bulk.count)
    found = [number for number, key in enumerate(keys) if partition_of(key, PARTITIONS) == partition]
    assert len(found) >= count, "a partition got too few of the keys"
    return found[:count]


# -------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class _Measured:
    latencies: list[float]
    missing: int
    load: dict[str, float]
    lag: int
    cpu_share: float
    provisional_ms: int

    @property
    def rate(self) -> float:
        return self.load["events"] / self.load["seconds"] if self.load else 0.0

    def row(self, name: str) -> dict[str, Any]:
        values = {f"p{q}_s": round(percentile(self.latencies, q), 3) for q in (50, 90, 99)}
        return {
            "name": name,
            "version": version("driftline"),
            "value": values["p99_s"],
            "unit": "s (p99)",
            "spread": [round(min(self.latencies), 3), round(max(self.latencies), 3)] if self.latencies else None,
            **values,
            "max_s": round(max(self.latencies, default=math.inf), 3),
            "probes": len(self.latencies),
            "not_visible": self.missing,
            "events_per_s": round(self.rate),
            "producer_most_behind_s": round(self.load.get("most_behind_s", 0.0), 3),
            "lag_at_end": self.lag,
            "worker_cpu_share": round(self.cpu_share, 3),
        }


def _full_rate(servers: str, home: Path, events: int) -> float:
    place = install(servers, home, "full")
    bulk = Bulk(events)
    with Worker(place.settings) as worker:
        wait_ready(worker)
        span = Course(place.kafka, [worker]).take(
            [(PREDICTIONS, prediction_chunks(bulk)), (GROUND_TRUTH, label_chunks(bulk, id_range(0, events)))]
        )
    return span.rate


def _measure(servers: str, home: Path, rate: float, seconds: float, warm_up: float) -> _Measured:
    place = install(servers, home, "loaded" if rate else "idle", models=("bench", *MODELS))
    probes = Probes(int((seconds + warm_up) / PROBE_EVERY_S))
    with ExitStack() as stack:
        worker = stack.enter_context(Worker(place.settings))
        wait_ready(worker)
        producer = stack.enter_context(EventProducer(place.kafka, linger_ms=0))
        probes.predict(producer)
        _await_drained(place, worker)
        tail = stack.enter_context(Tail(place.kafka, [QUALITY_METRICS], from_beginning=False, fetch_wait_ms=20))
        load = stack.enter_context(_Load(place.kafka, rate, seconds + warm_up)) if rate else None
        began, cpu = time.monotonic(), worker.child.cpu_seconds()
        _probe(probes, producer, tail, seconds + warm_up, worker)
        share = (worker.child.cpu_seconds() - cpu) / (time.monotonic() - began)
        lag = sum(LagProbe(place.kafka).lag(GROUP, TOPICS).values())
        producer.flush()
        deadline = time.monotonic() + _SEEN_S
        while not probes.complete and time.monotonic() < deadline:
            probes.look(tail, 0.1)
        told = load.result() if load else {}
    provisional = place.settings.provisional_interval_ms
    return _Measured(probes.latencies(began + warm_up), probes.missing(), told, lag, share, provisional)


def _probe(probes: Probes, producer: EventProducer, tail: Tail, seconds: float, worker: Worker) -> None:
    """Send probes on time and look for them in between."""
    began = due = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        if now >= due:
            worker.child.check()
            due = max(due + PROBE_EVERY_S, now)
            if not probes.send(producer):
                return
        probes.look(tail, max(0.0, min(due - time.monotonic(), 0.05)))


def _await_drained(place: Installation, worker: Worker) -> None:
    lag = LagProbe(place.kafka)
    wait_until(
        lambda: not sum(lag.lag(GROUP, TOPICS).values()), [worker], "the probes' predictions wait", _CATCH_UP_S, 0.2
    )


class _Load:
    """`benchmarks.paced` as a process."""

    def __init__(self, kafka: KafkaConfig, rate: float, seconds: float) -> None:
        arguments = (kafka.bootstrap_servers, kafka.prefix, rate, seconds, DELAY_MS)
        self._command = [sys.executable, "-m", "benchmarks.paced", *map(str, arguments)]
        self._root = Path(__file__).resolve().parent.parent
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Load:
        self._process = subprocess.Popen(self._command, cwd=self._root, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)

    def result(self) -> dict[str, float]:
        """What it said at its end.

        Raises
        ------
        RuntimeError
            It ended without saying anything.
        """
        assert self._process is not None
        output, _ = self._process.communicate(timeout=90)
        if self._process.returncode or not output.strip():
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        found: dict[str, float] = json.loads(output)
        return found
