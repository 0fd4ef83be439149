"""`driftline bench join`: the real monitoring worker on 1 M predictions and 1 M labels, next to its peers.

All read the same records from the same embedded broker on the same cores, in turn, and are measured by one yardstick:
the group's committed offsets seen from outside, from the first commit that moves to the one that holds the last record,
start-up apart. Raw consume, which commits nothing, measures itself from its first record on. What came out (pairs and
confusion counts) must be equal to what the traffic comes to.

The worker runs with exactly-once, quality metrics, one segment and drift on. Peers do less: they join, and count
confusion and score histograms per model and window. Slow peers get a part of the traffic.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents.config import Settings
from benchmarks import installation, outcome, traffic
from benchmarks.harness import Contender, Measurement, Note, UnavailableError, compare, skipped
from benchmarks.installation import COMMIT_INTERVAL_MS, PARTITIONS
from benchmarks.model import register
from benchmarks.peers.base import Job, Peer, read_counts
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Child, cores
from benchmarks.progress import Ends, Progress
from benchmarks.worker import TOPICS, Worker, check_totals
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.admin import delete_topics, end_offsets
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.producer import EventProducer

HORIZON_MS = 86_400_000
"""`max_label_delay` of the benchmark's model."""
SMALL_EVENTS = 100_000
"""Predictions, and labels, that slow peers get and others warm up on."""
CACHE = Path(__file__).parent.parent / ".bench"


@dataclass(frozen=True)
class Traffic:
    """Loaded topics under a prefix of their own."""

    settings: Settings
    kafka: KafkaConfig
    events: int
    ends: Ends


@dataclass(frozen=True)
class Round:
    """What one round works on."""

    number: int
    full: Traffic
    small: Traffic | None


def run(
    *,
    events: int = 1_000_000,
    rounds: int = 5,
    peers: Sequence[str] | None = None,
    core_count: int | None = 2,
    cache: Path = CACHE,
    small_events: int = SMALL_EVENTS,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench join --json``.

    Parameters
    ----------
    events : int
        Predictions, and as many labels.
    rounds : int
        Rounds of all contenders, alternating.
    peers : sequence of str, optional
        Names from `benchmarks.peers.catalogue.PEERS`; default: all of them.
    core_count : int, optional
        Cores for everything, the broker included.
    cache : Path
        Where the peers' environments are built and kept.
    small_events : int
        For slow peers, and to warm up.
    note : callable
        Gets lines of progress.
    """
    wanted = list(PEERS if peers is None else peers)
    small_events = min(small_events, events)
    with cores(core_count) as chosen:
        ready = _prepared(wanted, cache, events, small_events, note)
        contenders = [
            Contender("driftline", version("driftline"), _worker, about={"events": 2 * events}),
            Contender("raw_consume", version("confluent-kafka"), _raw, about={"events": 2 * events}),
            *ready,
        ]
        with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder, EmbeddedKafka(Path(folder)) as broker:
            home, servers = Path(folder), broker.start()
            peers_run = any(not contender.skipped for contender in ready)
            small = _load(home, servers, "small", small_events) if peers_run else None

            @contextmanager
            def prepare(number: int) -> Iterator[Round]:
                full = _load(home, servers, f"r{number}", events)
                yield Round(number, full, small)
                delete_topics(full.kafka)

            return compare(
                "join",
                contenders,
                rounds,
                prepare,
                settings={
                    "partitions": PARTITIONS,
                    "predictions": events,
                    "labels": events,
                    "commit_interval_ms": COMMIT_INTERVAL_MS,
                    "max_label_delay_ms": HORIZON_MS,
                    "segments": 1,
                    "features": 4,
                    "cores": chosen,
                },
                note=note,
            )


def _prepared(wanted: Sequence[str], cache: Path, events: int, small_events: int, note: Note) -> list[Contender[Round]]:
    """Every peer's contender; what cannot be built here says so."""
    cache.mkdir(parents=True, exist_ok=True)
    contenders: list[Contender[Round]] = []
    for name in wanted:
        peer = PEERS[name]
        note(f"join: preparing {name}")
        try:
            number = peer.prepare(cache)
        except UnavailableError as error:
            contenders.append(skipped(name, str(error)))
            continue
        about = {"events": 2 * (events if peer.full else small_events), **peer.about()}
        contenders.append(Contender(name, number, _measure_of(peer), about=about))
    return contenders


def _load(home: Path, servers: str, name: str, events: int) -> Traffic:
    """Create the topics, register the model and fill both topics."""
    place = installation.prepare(servers, home, name)
    register(place)
    kafka = place.kafka
    with EventProducer(kafka) as producer:
        for topic, records in ((PREDICTIONS, traffic.predictions(events)), (GROUND_TRUTH, traffic.labels(events))):
            for key, value in records:
                producer.send(topic, value, key)
    ends = {partition: end for partition, end in end_offsets(kafka, TOPICS).items() if end}
    if sum(ends.values()) != 2 * events:
        raise AssertionError(f"{2 * events} records were sent, the topics hold {sum(ends.values())}")
    return Traffic(place.settings, kafka, events, ends)


def _worker(data: Round) -> Measurement:
    """The monitoring worker."""
    full = data.full
    with Worker(full.settings) as worker:
        span = worker.work_off(full.ends)
    check_totals(full.kafka, predictions=full.events, labelled=full.events, labels_matched=full.events)
    found = outcome.of_worker(full.kafka, full.settings)
    outcome.check("driftline", found, full.events)
    return Measurement.of(span, found)


def _raw(data: Round) -> Measurement:
    """Consuming everything and doing nothing with it."""
    full = data.full
    total = sum(full.ends.values())
    command = [sys.executable, "-m", "benchmarks.peers.raw_consume", full.kafka.bootstrap_servers, full.kafka.prefix]
    log = full.settings.home / "raw-consume.log"
    with Child([*command, f"raw-{data.number}", str(total)], log, folder=CACHE.parent) as child:
        if child.process.wait(900):
            raise RuntimeError(child.tail())
        told = json.loads(child.tail().strip().splitlines()[-1])
    return Measurement(
        told["events"] / told["seconds"],
        told["cpu_seconds"],
        child.peak_rss_bytes / 2**20,
        details={"seconds": told["seconds"], "cpu_us_per_event": told["cpu_seconds"] / told["events"] * 1e6},
    )


def _measure_of(peer: Peer) -> Any:
    def measure(data: Round) -> Measurement:
        data_of_peer = data.full if peer.full else data.small
        assert data_of_peer is not None
        assert data.small is not None
        job = Job(
            kafka=data_of_peer.kafka,
            warm_up=data.small.kafka,
            warm_up_events=data.small.events,
            group=f"{peer.name.replace('_', '-')}-{data.number}",
            folder=data.full.settings.home / peer.name,
            commit_interval_ms=COMMIT_INTERVAL_MS,
            horizon_ms=HORIZON_MS,
            partitions=PARTITIONS,
            events=data_of_peer.events,
        )
        job.folder.mkdir(parents=True)
        job.create_outputs()
        with peer.start(job) as child:
            span = Progress(job.kafka, job.group).follow(child, data_of_peer.ends)
            found = read_counts(job, data_of_peer.events)
        outcome.check(peer.name, found, data_of_peer.events)
        return Measurement.of(span, found if peer.full else None)

    return measure
