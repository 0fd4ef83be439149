"""`driftline bench join`: the real monitoring worker on 1 M predictions and 1 M labels, next to raw consume.

Both read the same records from the same embedded broker, in turn. Raw consume is the limit: the hot path's consumer,
with the same settings, that does nothing with what it gets. The worker is the process that `driftline agent monitoring`
starts, with exactly-once, quality metrics, one segment and drift on; it is measured from its first commit to the commit
of the last record, start-up apart.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.config import Settings, load_settings
from benchmarks import traffic
from benchmarks.machine import machine
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.admin import end_offsets, ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.lag import committed_offsets
from streams.kafka.producer import EventProducer

TOPICS = (PREDICTIONS, GROUND_TRUTH)
PARTITIONS = 4
DEADLINE_S = 900.0


def run(*, events: int = 1_000_000, rounds: int = 5, note: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench join --json``.

    Parameters
    ----------
    events : int
        Predictions, and as many labels.
    rounds : int
        Pairs of runs, alternating.
    note : callable
        Gets a line of progress.
    """
    ours: list[float] = []
    raw: list[float] = []
    cpu: list[float] = []
    with tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder:
        home = Path(folder)
        with EmbeddedKafka(home) as broker:
            servers = broker.start()
            for number in range(rounds):
                settings = load_settings(
                    home=home / f"round-{number}",
                    bootstrap_servers=servers,
                    partitions=PARTITIONS,
                    prefix=f"r{number}-",
                    database_url="",
                    artifacts_url="",
                    archive_url="",
                    commit_interval_ms=200,
                )
                settings.home.mkdir()
                kafka = KafkaConfig(servers, prefix=settings.prefix)
                _load(kafka, settings, events)
                measures = [lambda k=kafka: _raw(k), lambda s=settings, k=kafka: _worker(s, k, events)]
                for measure in measures if number % 2 == 0 else reversed(measures):
                    rate, seconds = measure()
                    (ours if seconds is not None else raw).append(rate)
                    if seconds is not None:
                        cpu.append(seconds)
                note(f"round {number + 1}/{rounds}: driftline {ours[-1]:,.0f}/s, raw consume {raw[-1]:,.0f}/s")
    ratios = [a / b for a, b in zip(ours, raw, strict=True)]
    return {
        "bench": "join",
        "machine": machine(),
        "rounds": rounds,
        "settings": {"partitions": PARTITIONS, "predictions": events, "labels": events, "commit_interval_ms": 200},
        "rows": [
            _row("driftline", ours, cpu_seconds=round(statistics.median(cpu), 2)),
            _row("raw_consume", raw),
        ],
        "ratios": {"driftline/raw_consume": round(statistics.median(ratios), 4)},
        "ratio_range": {"driftline/raw_consume": [round(min(ratios), 4), round(max(ratios), 4)]},
    }


def _row(name: str, rates: list[float], **more: object) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "name": name,
        "version": version("driftline" if name == "driftline" else "confluent-kafka"),
        "value": round(statistics.median(rates)),
        "unit": "events/s",
        "spread": [round(min(rates)), round(max(rates))],
        **more,
    }


def _load(kafka: KafkaConfig, settings: Settings, events: int) -> None:
    """Create the topics, register the model and fill both topics."""
    from benchmarks.model import register

    ensure_topics(kafka, settings.partitions)
    register(kafka, settings)
    with EventProducer(kafka) as producer:
        for topic, records in ((PREDICTIONS, traffic.predictions(events)), (GROUND_TRUTH, traffic.labels(events))):
            for key, value in records:
                producer.send(topic, value, key)


def _raw(kafka: KafkaConfig) -> tuple[float, float | None]:
    """Events/s of consuming everything and doing nothing with it."""
    total = sum(end_offsets(kafka, TOPICS).values())
    consumer = GroupConsumer(kafka, "bench-raw", TOPICS)
    try:
        seen = 0
        began = 0.0
        deadline = time.monotonic() + DEADLINE_S
        while seen < total and time.monotonic() < deadline:
            records = consumer.poll_batch(20_000, 1.0)
            if records and not began:
                # The group's assembly is not what is compared: time runs from the first batch on.
                began = time.monotonic()
                total -= len(records)
                continue
            seen += len(records)
        return seen / (time.monotonic() - began), None
    finally:
        consumer.close()


def _worker(settings: Settings, kafka: KafkaConfig, events: int) -> tuple[float, float | None]:
    """Events/s of the monitoring worker, and its CPU seconds."""
    from agents.monitoring.totals import newest_totals

    ends = {partition: end for partition, end in end_offsets(kafka, TOPICS).items() if end}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = settings.home / "monitoring.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "agent", "monitoring"],
            env=settings.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            began, at_start = _first_commit(process, kafka, ends, log)
            while _behind(kafka, ends) > 0:
                _check(process, log)
                time.sleep(0.02)
            rate = (sum(ends.values()) - at_start) / (time.monotonic() - began)
        finally:
            process.terminate()
            process.wait(30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    totals = newest_totals(kafka)
    wrong = {n: totals.get(n) for n in ("predictions", "labelled", "labels.matched") if totals.get(n) != events}
    if wrong:
        raise AssertionError(f"expected {events} of each, counted {wrong}")
    return rate, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def _committed(kafka: KafkaConfig, ends: dict[tuple[str, int], int]) -> int:
    committed = committed_offsets(kafka, "monitoring-join")
    return sum(min(committed.get(partition, 0), end) for partition, end in ends.items())


def _behind(kafka: KafkaConfig, ends: dict[tuple[str, int], int]) -> int:
    return sum(ends.values()) - _committed(kafka, ends)


def _first_commit(
    process: subprocess.Popen[bytes], kafka: KafkaConfig, ends: dict[tuple[str, int], int], log: Path
) -> tuple[float, int]:
    """When the first commit was seen, and how much it held: what came before is start-up."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        _check(process, log)
        if held := _committed(kafka, ends):
            return time.monotonic(), held
        time.sleep(0.02)
    raise TimeoutError(f"no commit within 120 s; see {log}")


def _check(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the worker ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}")
