"""Monitoring workers that share one consumer group, each with a home and a slot of its own, and what befalls them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from confluent_kafka.admin import AdminClient

from agents.runtime import is_ready
from schemas.codec import encode
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.monitoring import Installation, Progress, Traffic, Worker
from tests.support.plans import prediction
from tests.support.wait import eventually

GROUPS = ("monitoring-join", "monitoring-aggregate")


def shares(kafka: KafkaConfig, group: str) -> list[int]:
    """How many partitions each member of a group holds, ascending."""
    admin = AdminClient(kafka.common())
    [future] = admin.describe_consumer_groups([kafka.group(group)], request_timeout=10).values()
    members = future.result(10).members
    return sorted(len(m.assignment.topic_partitions) if m.assignment is not None else 0 for m in members)


class Dirt:
    """Records that no join can take, and what they count as."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def send(self, producer: EventProducer, traffic: Traffic, n: int) -> None:
        """`n` of each kind, under keys that spread over the partitions."""
        for _ in range(n):
            at = sum(self.counts.values())
            unknown = prediction(f"unknown-{at}", traffic.start_ms)
            for topic, value, counted in (
                (PREDICTIONS, b'{"prediction_id": "half', ["predictions.dead"]),
                (PREDICTIONS, encode(unknown).replace(b'"model":"m"', b'"model":"nobody"'), ["predictions.skipped"]),
                (GROUND_TRUTH, b"\xff\x00", ["labels", "labels.dead"]),
            ):
                producer.send(topic, value, b"dirt-%d" % at)
                traffic.sent[topic] += 1
                self.counts.update(counted)


class Fleet:
    """Workers by slot, the load they are under, and the faults.

    Every fault leaves each worker running or starting. `kills` counts SIGKILLs, `faults` everything.
    """

    def __init__(self, house: Installation, homes: Path, progress: Progress, slots: Sequence[str] = ("a", "b")) -> None:
        self.house = house
        self.progress = progress
        self.slots = tuple(slots)
        self.workers: dict[str, Worker] = {}
        self.kills = 0
        self.faults: Counter[str] = Counter()
        self._homes = homes

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            worker.process.send_signal(signal.SIGCONT)
        for worker in self.workers.values():
            if error is None:
                worker.stop()
            elif worker.process.poll() is None:
                worker.kill()

    def start(self, slot: str) -> Worker:
        """Start (again) the worker of a slot."""
        home = self._homes / slot
        settings = self.house.settings.model_copy(
            update={"slot": slot, "home": home, "artifacts_url": self.house.settings.artifacts}
        )
        self.workers[slot] = Worker(settings)
        return self.workers[slot]

    def kill(self, slot: str) -> None:
        """SIGKILL, of a worker that runs."""
        worker = self.workers[slot]
        assert worker.process.poll() is None, self.said(slot)
        worker.kill()
        self.kills += 1

    def stop(self, slot: str) -> None:
        """SIGTERM, and wait: partitions go to the others at once."""
        worker = self.workers[slot]
        # Before it works, there may be no signal handler yet.
        works = is_ready(worker.settings, "monitoring", worker.process.pid)
        assert worker.stop() in ({0} if works else {0, -signal.SIGTERM}), self.said(slot)

    def said(self, slot: str) -> str:
        """The end of a worker's log."""
        return self.workers[slot].log.read_text()[-3000:]

    def logs(self) -> str:
        """All of what all of them said."""
        return "".join(worker.log.read_text() for worker in self.workers.values())

    def spread(self, *workers: int, timeout: float = 40) -> None:
        """Wait until both groups are spread over so many members as counts are given, with so many partitions each.

        A partition of the join counts twice: both topics.
        """
        for group, factor in zip(GROUPS, (2, 1), strict=True):
            wanted = sorted(n * factor for n in workers)
            eventually(
                lambda g=group, w=wanted: shares(self.house.kafka, g) == w,
                timeout=timeout,
                interval=0.2,
                message=lambda g=group, w=wanted: f"{g}: {shares(self.house.kafka, g)}, not {w}",
            )

    def reach(self, target: int, timeout: float = 90) -> None:
        """Wait until so many records in all are accounted for."""
        eventually(
            lambda: self.progress.read() >= target,
            timeout=timeout,
            interval=0.01,
            message=lambda: f"{self.progress.read()} of {target}; " + " | ".join(self.said(s) for s in self.workers),
        )

    # -------------------------------------------------------------------------------------------- faults

    def fall(self, fault: str, rng: random.Random) -> None:
        """Let one of `FAULTS` happen."""
        self.faults[fault] += 1
        FAULTS[fault](self, rng)


def _kill_one(fleet: Fleet, rng: random.Random) -> None:
    """One dies and starts again at once, before the group has noticed."""
    slot = rng.choice(fleet.slots)
    fleet.kill(slot)
    fleet.start(slot)


def _kill_for_long(fleet: Fleet, rng: random.Random) -> None:
    """One dies; the others take its partitions over, then it comes back to a folder that is old."""
    slot = rng.choice(fleet.slots)
    fleet.kill(slot)
    fleet.spread(*_spread(fleet.house.partitions, len(fleet.slots) - 1))
    fleet.start(slot)


def _kill_in_rebalance(fleet: Fleet, rng: random.Random) -> None:
    """One leaves in order; while its partitions move, the one that gets them dies."""
    leaving, dying = rng.sample(fleet.slots, 2)
    fleet.stop(leaving)
    time.sleep(rng.uniform(0.0, 0.3))
    fleet.kill(dying)
    for slot in (leaving, dying):
        fleet.start(slot)


def _kill_in_restore(fleet: Fleet, rng: random.Random) -> None:
    """One dies and dies again somewhere in its start: imports, joining, restoring."""
    slot = rng.choice(fleet.slots)
    fleet.kill(slot)
    fleet.start(slot)
    time.sleep(rng.uniform(0.5, 3.0))
    fleet.kill(slot)
    fleet.start(slot)


def _kill_all(fleet: Fleet, rng: random.Random) -> None:
    """All die in the same moment; now and then one loses its state folder too."""
    for slot in fleet.slots:
        fleet.kill(slot)
    if rng.random() < 0.5:
        shutil.rmtree(fleet.workers[rng.choice(fleet.slots)].settings.state_dir, ignore_errors=True)
    for slot in fleet.slots:
        fleet.start(slot)


def _leave(fleet: Fleet, rng: random.Random) -> None:
    """One leaves in order, and comes back."""
    slot = rng.choice(fleet.slots)
    fleet.stop(slot)
    fleet.start(slot)


def _zombie(fleet: Fleet, rng: random.Random) -> None:
    """One is stopped for longer than its session lasts, anywhere in a batch; it wakes up when others own its work."""
    slot = rng.choice(fleet.slots)
    worker = fleet.workers[slot]
    assert worker.process.poll() is None, fleet.said(slot)
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        # The group notices after the session time-out; an open transaction is waited for on top.
        fleet.spread(*_spread(fleet.house.partitions, len(fleet.slots) - 1), timeout=60)
        time.sleep(rng.uniform(0, 1))
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)
    # It may drop its batch and join again, or, fenced, end, so that its supervisor starts another: both are right.
    wanted = sorted(2 * n for n in _spread(fleet.house.partitions, len(fleet.slots)))

    def joined() -> bool:
        if fleet.workers[slot].process.poll() is not None:
            fleet.start(slot)
        return shares(fleet.house.kafka, GROUPS[0]) == wanted

    eventually(joined, timeout=90, interval=0.2, message=lambda: fleet.said(slot))


def _spread(partitions: int, members: int) -> list[int]:
    """How the range strategy deals one topic's partitions."""
    return [partitions // members + (1 if i < partitions % members else 0) for i in range(members)]


Fault = Callable[[Fleet, random.Random], None]
FAULTS: dict[str, Fault] = {
    "kill one": _kill_one,
    "kill for long": _kill_for_long,
    "kill in rebalance": _kill_in_rebalance,
    "kill in restore": _kill_in_restore,
    "kill all": _kill_all,
    "leave": _leave,
    "zombie": _zombie,
}
