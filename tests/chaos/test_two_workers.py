"""Two monitoring workers share the partitions and die, stop, sleep and leave at random moments: input equals output."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.chaos.test_exactly_once import LOAD, check_result, check_windows
from tests.support.fleet import FAULTS, Dirt, Fleet
from tests.support.monitoring import DAY_MS, Installation, Traffic, Worker
from tests.support.wait import eventually

SEED = int(os.environ.get("DRIFTLINE_CHAOS_SEED", "4"))
KILLS = 50
# Records of one chunk reach the broker while it is being read: disorder of a chunk's event time is within the grace.
TOLERANT = LOAD | {"grace_ms": 3 * DAY_MS}


def live_through(
    kafka: KafkaConfig, folder: Path, faults: int, chunk: int, next_fault: Callable[[Fleet, int], str | None]
) -> Fleet:
    """Run two workers under load; before every chunk's end the next fault happens. Checks everything at the end."""
    rng = random.Random(SEED)
    house = Installation(kafka, folder / "house", **TOLERANT)
    house.register(1)
    traffic, dirt = Traffic(SEED), Dirt()
    events = traffic.make(faults * chunk, days=faults)
    size = len(events) // faults + 1
    with EventProducer(kafka) as producer, house.follow() as progress, Fleet(house, folder, progress) as fleet:
        for slot in fleet.slots:
            fleet.start(slot)
        for number in range(faults):
            # Counted from before they are sent: the workers may be as fast as this loop.
            before = progress.read()
            traffic.send(producer, events[number * size : (number + 1) * size])
            dirt.send(producer, traffic, 2)
            producer.flush()
            fleet.reach(before + rng.randint(1, size // 2))
            fault = next_fault(fleet, number)
            if fault is None:
                break
            fleet.fall(fault, rng)
        else:
            number += 1
        traffic.send(producer, events[number * size + size :])
        traffic.beat(producer, traffic.start_ms + (faults + 60) * DAY_MS, house.partitions)
        producer.flush()
        everything = sum(traffic.sent.values())
        eventually(
            lambda: progress.read() == everything and progress.totals()["pending"] == 0,
            timeout=120,
            message=lambda: f"{progress.read()} of {everything}",
        )
        fleet.spread(*([2, 1] if house.partitions == 3 else []))
        check_result(house, traffic, progress, dirt.counts)
        eventually(lambda: check_windows(house, traffic), timeout=60, interval=0.5)
        assert "Traceback" not in fleet.logs()
    return fleet


def test_every_fault_once(kafka: KafkaConfig, tmp_path: Path) -> None:
    script = ["kill one", "leave", "kill in rebalance", "zombie", "kill in restore", "kill for long", "kill all"]
    assert set(script) == set(FAULTS)
    fleet = live_through(kafka, tmp_path, len(script), 350, lambda _, number: script[number])
    assert fleet.kills == 7


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_fifty_random_kills(kafka: KafkaConfig, tmp_path: Path) -> None:
    rng = random.Random(SEED + 1)
    kinds = list(FAULTS)

    def next_fault(fleet: Fleet, _: int) -> str | None:
        if fleet.kills >= KILLS:
            return None
        return rng.choices(kinds, [4, 2, 3, 3, 3, 1, 1])[0]

    fleet = live_through(kafka, tmp_path, 70, 250, next_fault)
    assert fleet.kills >= KILLS
    assert Counter(kinds) <= fleet.faults, "every kind of fault happened"


def test_spares_and_slots(kafka: KafkaConfig, tmp_path: Path) -> None:
    """A worker more than partitions waits as a spare and takes over; a second one of a slot is refused."""
    house = Installation(kafka, tmp_path / "house", partitions=1, **TOLERANT)
    house.register(1)
    traffic = Traffic(SEED)
    events = traffic.make(300, days=3)
    half = len(events) // 2
    with EventProducer(kafka) as producer, house.follow() as progress, Fleet(house, tmp_path, progress) as fleet:
        working = fleet.start("a").ready()
        traffic.send(producer, events[:half])
        producer.flush()
        fleet.reach(half)
        fleet.start("b").ready()
        fleet.spread(0, 1)

        refused = Worker(working.settings)
        assert refused.wait(30) == 2
        assert "DRIFTLINE_SLOT" in refused.log.read_text()

        working.kill()
        fleet.spread(1)
        traffic.send(producer, events[half:])
        traffic.beat(producer, traffic.start_ms + 60 * DAY_MS, 1)
        producer.flush()
        eventually(
            lambda: progress.read() == sum(traffic.sent.values()) and not progress.totals()["pending"], timeout=60
        )
        check_result(house, traffic, progress)
