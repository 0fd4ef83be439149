"""Lag costs no memory: while a batch is computed, a full queue pauses fetching, and nothing is lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agents.monitoring.agent import AGGREGATE_QUEUE_KBYTES
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.lag import committed_offsets
from streams.kafka.processor import ProcessorOptions
from streams.kafka.producer import EventProducer
from streams.kafka.reader import _QUEUE_KBYTES
from tests.support.processing import scratch_topic
from tests.support.wait import eventually

MB = 2**20
RECORD = 2_000
LOAD = 100 * MB // RECORD
PROGRAM = """
import sys, threading, time
from pathlib import Path
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor, ProcessorOptions

servers, prefix, folder, queue_kbytes = sys.argv[1:5]
folder = Path(folder)

class Counter:
    seen = 0
    def restore(self, partitions, committed): return None
    def process(self, records, positions, now_ms):
        if records and not self.seen:
            (folder / "slow").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        self.seen += len(records)
        return []
    def wants_commit(self): return False
    def committed(self, offsets): (folder / "seen").write_text(str(self.seen))
    def aborted(self): pass
    def released(self, partitions): pass

BatchProcessor(
    KafkaConfig(servers, {"fetch.max.bytes": "2000000", "max.partition.fetch.bytes": "1000000"}, prefix),
    group="counting", topics=["orders"], transactional_id="counting-0", handler=Counter(),
    options=ProcessorOptions(batch_records=2_000, queue_kbytes=int(queue_kbytes)),
).run(threading.Event())
"""


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seen(folder: Path) -> int:
    """Records in committed batches; 0 in the moment in which the file is being written."""
    path = folder / "seen"
    return int(path.read_text() or 0) if path.exists() else 0


def test_a_slow_worker_stays_small_under_ten_times_its_queue(kafka: KafkaConfig, tmp_path: Path) -> None:
    ensure_topics(kafka, 4, {"orders": scratch_topic("orders")})
    queue_kbytes = 10_240
    arguments = [kafka.bootstrap_servers, kafka.prefix, str(tmp_path), str(queue_kbytes)]
    log = (tmp_path / "log").open("w")
    worker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        with EventProducer(kafka) as producer:
            # The first record stops it; the rest arrives meanwhile. Random bytes: nothing is saved by compression.
            producer.send("orders", b"first", b"first")
            producer.flush()
            eventually((tmp_path / "slow").exists, timeout=40, message=(tmp_path / "log").read_text)
            before = rss(worker.pid)
            for number in range(LOAD):
                producer.send("orders", os.urandom(RECORD), b"%d" % number)
            producer.flush(60)
        sizes: list[int] = []

        def settled() -> bool:
            sizes.append(rss(worker.pid))
            return len(sizes) > 20 and max(sizes[-20:]) - min(sizes[-20:]) < MB

        eventually(settled, timeout=30, interval=0.05)
        grown = max(sizes) - before
        assert queue_kbytes * 1_000 < grown < 3 * queue_kbytes * 1_024, f"{grown / MB:.0f} MB"
        (tmp_path / "go").touch()
        eventually(lambda: seen(tmp_path) >= LOAD + 1, timeout=60, message=lambda: str(seen(tmp_path)))
    finally:
        worker.kill()
        worker.wait(10)
        log.close()
    # Each once: fetching went on where it had stopped.
    assert seen(tmp_path) == LOAD + 1
    assert sum(committed_offsets(kafka, "counting").values()) == LOAD + 1


def test_all_consumers_of_a_monitoring_worker_fetch_at_most_128_mb_ahead() -> None:
    join = ProcessorOptions().queue_kbytes
    # While the join restores it holds no partition of its own: its three readers take the place of its queue.
    assert join >= 3 * _QUEUE_KBYTES
    registry = restoring = _QUEUE_KBYTES
    assert (join + AGGREGATE_QUEUE_KBYTES + registry + restoring) * 1_024 <= 128 * MB
