"""The broker is restarted, killed, and paused longer than a transaction may last, while batches are being copied."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from schemas.errors import BrokerError
from streams.kafka.admin import ensure_topics
from streams.kafka.broker_state import LOCK_FILE, held
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.reader import read_all
from tests.integration.test_processor import TOPICS, processor, produce
from tests.support.processing import Copier
from tests.support.wait import eventually


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path) as broker:
        yield broker


class Supervised:
    """A worker that is started again when it ends with an error, as the supervisor does with processes."""

    def __init__(self, kafka: KafkaConfig, **options: int) -> None:
        self.values: list[bytes] = []
        self.ends: list[str] = []
        self._kafka, self._options = kafka, options
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(60)

    def _work(self) -> None:
        while not self._stop.is_set():
            handler = Remembering(self.values)
            try:
                processor(self._kafka, handler, batch_records=20, **self._options).run(self._stop)
            except BrokerError as error:
                self.ends.append(str(error))
                self._stop.wait(0.5)


class Remembering(Copier):
    """What it committed outlives it."""

    def __init__(self, kept: list[bytes]) -> None:
        super().__init__()
        self._kept = kept

    def committed(self, offsets):  # type: ignore[no-untyped-def]
        self._kept += [record.value or b"" for record in self.overlay]
        super().committed(offsets)


def numbered(n: int, start: int = 0) -> list[bytes]:
    return [b"v%05d" % i for i in range(start, start + n)]


@pytest.mark.parametrize("how", ["restarted", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_broker_that_comes_back_costs_nothing(own_broker: EmbeddedKafka, how: str) -> None:
    """Nothing is lost and nothing is copied twice.

    Killed with SIGKILL, a single Kafka 4.3 may itself lose a committed transaction (docs/adr/0013): the
    group's offsets then stay pending and the worker refuses to guess, or the batch is gone. This test fails then, and
    is not part of the default suite.
    """
    kafka = KafkaConfig(own_broker.start(), prefix="comes-back.")
    ensure_topics(kafka, 2, TOPICS)
    produce(kafka, numbered(2_000))
    worker = Supervised(kafka)
    with worker.running():
        eventually(lambda: len(worker.values) > 200, timeout=30)
        state = own_broker.state()
        assert state is not None
        if how == "killed":
            os.kill(state.pid, signal.SIGKILL)
        else:
            # Not by `stop`, which kills a broker that a busy machine stops too slowly: that is the other test.
            (java,) = psutil.Process(state.pid).children()
            java.terminate()
        assert len(worker.values) < 2_000, "the broker died too late to show anything"
        eventually(lambda: not held(own_broker.folder / LOCK_FILE), timeout=90)
        assert own_broker.start() == kafka.bootstrap_servers
        produce(kafka, numbered(100, 2_000))
        eventually(lambda: len(set(worker.values)) == 2_100, timeout=200, message=lambda: str(worker.ends))
        copies = [record.value or b"" for record in read_all(kafka, "copies", timeout_s=30)]
    assert sorted(copies) == numbered(2_100)


@pytest.mark.slow
def test_a_broker_that_pauses_for_longer_than_a_transaction_may_last(own_broker: EmbeddedKafka) -> None:
    kafka = KafkaConfig(own_broker.start(), prefix="stop.")
    ensure_topics(kafka, 2, TOPICS)
    produce(kafka, numbered(2_000))
    worker = Supervised(kafka, operation_timeout_ms=8_000)
    with worker.running():
        eventually(lambda: len(worker.values) > 200, timeout=30)
        state = own_broker.state()
        assert state is not None
        os.kill(state.pid, signal.SIGSTOP)
        assert len(worker.values) < 2_000
        time.sleep(25)  # the fault itself: longer than the transaction and operation time-outs
        os.kill(state.pid, signal.SIGCONT)
        eventually(lambda: len(set(worker.values)) == 2_000, timeout=120, message=lambda: str(worker.ends))
        copies = [record.value or b"" for record in read_all(kafka, "copies", timeout_s=30)]
    assert sorted(copies) == numbered(2_000)
