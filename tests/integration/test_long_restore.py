"""A restore may take longer than the group waits for a poll, and a rebalance may come in the middle of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from schemas.errors import StateError
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor
from streams.kafka.reader import read_all
from tests.integration.test_processor import TOPICS, processor, produce
from tests.support.fleet import shares
from tests.support.processing import Copier
from tests.support.wait import eventually

VALUES = [b"v%03d" % i for i in range(200)]
OPTIONS = {"max_poll_interval_ms": 2_000, "session_timeout_ms": 2_000}


class Slow(Copier):
    """Its first restore ends when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.failure_of_restore: Exception | None = None
        self.batches_at_release: list[int] = []

    def restore(self, partitions, committed):  # type: ignore[no-untyped-def]
        super().restore(partitions, committed)
        assert self.go.wait(60)
        if self.failure_of_restore is not None:
            raise self.failure_of_restore
        return None

    def released(self, partitions):  # type: ignore[no-untyped-def]
        super().released(partitions)
        self.batches_at_release.append(len(self.batches))


@contextmanager
def running(worker: BatchProcessor) -> Iterator[list[BaseException]]:
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(30)


def test_a_restore_longer_than_max_poll_keeps_its_partitions(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, TOPICS)
    produce(kafka, VALUES)
    handler = Slow()
    with running(processor(kafka, handler, **OPTIONS)) as failures:
        eventually(lambda: handler.restored, timeout=20)
        time.sleep(2 * OPTIONS["max_poll_interval_ms"] / 1000)  # the fault itself
        handler.go.set()
        eventually(lambda: len(handler.values()) == len(VALUES), timeout=20)
    assert not failures
    assert len(handler.restored) == 1, "it was never thrown out"
    assert handler.releases == [[0, 1]]


def test_a_rebalance_in_the_middle_of_a_restore(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 4, TOPICS)
    produce(kafka, VALUES)
    first, second = Slow(), Copier()
    with running(processor(kafka, first, "first", session_timeout_ms=3_000)) as failures:
        eventually(lambda: first.restored, timeout=20)
        with running(processor(kafka, second, "second")) as others:
            # The second has asked to join; the first is held up in its callback, and the group waits for it.
            eventually(lambda: len(shares(kafka, "copying")) == 2, timeout=40)
            time.sleep(4)  # a dozen heartbeats: their answers tell the first one's client, on a busy machine too
            assert not second.restored
            assert first.releases == []
            first.go.set()
            eventually(lambda: len(first.values()) + len(second.values()) == len(VALUES), timeout=30)
    assert not failures
    assert not others
    assert first.releases[0] == [0, 1, 2, 3]
    assert first.batches_at_release[0] == 0, "released before it ever read from them"
    assert first.restored[0][0] == [0, 1, 2, 3]
    assert {len(partitions) for partitions, _ in (first.restored[1], second.restored[0])} == {2}
    assert sorted(first.values() + second.values()) == VALUES
    assert sorted(record.value or b"" for record in read_all(kafka, "copies", timeout_s=20)) == VALUES


def test_a_restore_that_fails_ends_the_worker(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, TOPICS)
    handler = Slow()
    handler.failure_of_restore = StateError("made up")
    handler.go.set()
    with pytest.raises(StateError, match="made up"):
        processor(kafka, handler).run(threading.Event())
