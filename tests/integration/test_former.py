"""A worker that was killed cannot leave its group: its successor does that in its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer
from streams.kafka.former import remove_former
from streams.kafka.processor import BatchProcessor
from tests.integration.test_processor import TOPICS, processor, produce
from tests.support.processing import Copier
from tests.support.wait import eventually

LONG_MS = 120_000
"""A session that outlasts every wait below."""
PROGRAM = """
import sys, threading
from streams.kafka.config import KafkaConfig
from tests.integration.test_processor import processor
from tests.support.processing import Copier

processor(KafkaConfig(sys.argv[1], prefix=sys.argv[2]), Copier(), session_timeout_ms=int(sys.argv[3]),
          max_poll_interval_ms=int(sys.argv[3])).run(threading.Event())
"""


def numbers(worker: BatchProcessor) -> list[int]:
    worker.step(0.05)
    return [partition for _, partition in worker.assignment()]


def test_a_successor_does_not_wait_for_the_session_of_a_killed_worker(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, TOPICS)
    values = [b"v%02d" % i for i in range(40)]
    produce(kafka, values[:20])
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kafka.bootstrap_servers, kafka.prefix, str(LONG_MS)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    handler = Copier()
    successor = processor(kafka, handler, session_timeout_ms=LONG_MS, max_poll_interval_ms=LONG_MS)
    try:
        watcher = GroupConsumer(kafka, "copying-watch", ["copies"])
        try:
            copied: list[bytes] = []
            eventually(
                lambda: copied.extend(r.value or b"" for r in watcher.poll_batch(100, 0.2)) or len(copied) == 20,
                timeout=60,
            )
        finally:
            watcher.close()
        killed.kill()
        killed.wait(10)
        produce(kafka, values[20:])
        eventually(lambda: successor.step(0.05) and len(handler.values()) == 20, timeout=40)
    finally:
        killed.kill()
        killed.wait(10)
        successor.close()
    assert sorted(handler.values()) == values[20:]


def test_only_members_of_that_name_are_removed(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, TOPICS)
    workers = {slot: processor(kafka, Copier(), slot) for slot in "ab"}
    try:
        # In the order of their names, whoever came first: a worker that comes back finds the partitions it had.
        eventually(lambda: numbers(workers["b"]) == [0, 1], timeout=30)
        eventually(lambda: (numbers(workers["a"]), numbers(workers["b"])) == ([0], [1]), timeout=30)
        name = f"driftline-{kafka.prefix}copying-"
        assert remove_former(kafka, "copying", name + "c") == 0
        assert remove_former(kafka, "another", name + "b") == 0
        assert (numbers(workers["a"]), numbers(workers["b"])) == ([0], [1])
        assert remove_former(kafka, "copying", name + "b") == 1
        eventually(lambda: numbers(workers["a"]) == [0, 1], timeout=30)
        # It lives: it joins again.
        eventually(lambda: (numbers(workers["a"]), numbers(workers["b"])) == ([0], [1]), timeout=30)
    finally:
        for worker in workers.values():
            worker.close()


@pytest.mark.parametrize(
    ("servers", "properties"),
    [
        ("127.0.0.1:1", {}),
        ("127.0.0.1:1", {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"}),
    ],
    ids=["no broker", "a mechanism of librdkafka's alone"],
)
def test_a_removal_that_fails_is_told_and_no_more(
    servers: str, properties: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "streams.kafka.former")
    assert remove_former(KafkaConfig(servers, properties), "copying", "driftline-copying-0") == 0
    assert "may have to end first" in caplog.text
