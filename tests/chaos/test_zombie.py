"""A worker that is stopped (SIGSTOP) in the middle of a batch wakes up after another one took its partitions over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import read_all
from tests.integration.test_processor import TOPICS, processor, produce
from tests.support.processing import Copier
from tests.support.wait import eventually

PROGRAM = """
import sys, threading, time
from pathlib import Path
from streams.kafka.config import KafkaConfig
from streams.kafka.transactions import TransactionalWriter
from tests.integration.test_processor import processor
from tests.support.processing import Copier

servers, prefix, folder, where = sys.argv[1:5]
folder = Path(folder)

def wait():
    (folder / "in-the-middle").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)

class Waiter(Copier):
    def process(self, records, positions, now_ms):
        outputs = super().process(records, positions, now_ms)
        if records and where == "before the transaction":
            wait()
        return outputs
    def aborted(self):
        super().aborted()
        if (folder / "go").exists():
            (folder / "aborted").touch()
    def committed(self, offsets):
        super().committed(offsets)
        if self.values():
            (folder / "committed").touch()

if where == "before the commit":
    genuine = TransactionalWriter.commit
    def commit(self):
        wait()
        return genuine(self)
    TransactionalWriter.commit = commit

processor(KafkaConfig(servers, prefix=prefix), Waiter(), slot="zombie",
          session_timeout_ms=6_000, transaction_timeout_ms=6_000).run(threading.Event())
"""


@pytest.mark.parametrize("where", ["before the transaction", "before the commit"])
def test_a_zombie_is_fenced(kafka: KafkaConfig, tmp_path: Path, where: str) -> None:
    ensure_topics(kafka, 1, TOPICS)
    values = [b"v%03d" % i for i in range(50)]
    produce(kafka, values)
    log = (tmp_path / "log").open("w")
    zombie = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kafka.bootstrap_servers, kafka.prefix, str(tmp_path), where],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    handler = Copier()
    healthy = processor(kafka, handler, slot="healthy", session_timeout_ms=6_000)
    try:
        eventually((tmp_path / "in-the-middle").exists, timeout=40)
        zombie.send_signal(signal.SIGSTOP)
        # The group notices after the session time-out; an open transaction ends with its own time-out.
        eventually(lambda: healthy.step(0.1) and len(handler.values()) == len(values), timeout=60)
        (tmp_path / "go").touch()
        zombie.send_signal(signal.SIGCONT)

        def woke_up() -> bool:
            healthy.step(0.05)
            return zombie.poll() is not None or (tmp_path / "aborted").exists()

        eventually(woke_up, timeout=40)
    finally:
        zombie.kill()
        zombie.wait(10)
        log.close()
        healthy.close()
    assert not (tmp_path / "committed").exists()
    assert handler.values() == values
    assert [record.value for record in read_all(kafka, "copies", timeout_s=20)] == values
