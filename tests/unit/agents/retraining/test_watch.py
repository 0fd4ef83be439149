"""The watch: from the series to one command, in the transaction of the position, whatever comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from agents.database.outbox import OutboxRow
from agents.database.schema import metadata
from agents.retraining.tables import ProbationRow
from agents.retraining.watch import on_probation, take_all
from schemas.codec import decode, encode, utc
from schemas.events import AnyRegistryCommand, EndProbation, QualityMetric, RollBackModel
from schemas.topics import QUALITY_METRICS
from streams.kafka.records import Record
from tests.support.registries import RegistryWorld
from tests.unit.agents.retraining.tables import DAY_MS
from tests.unit.agents.retraining.test_probation import metric


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    made = RegistryWorld(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    metadata().create_all(made.engine)
    made.model(probation="3d")
    made.candidate(probation="3d")
    made.candidate(probation="3d")
    yield made
    made.close()


def records(*metrics: QualityMetric) -> list[Record]:
    return [Record(QUALITY_METRICS, 0, at, b"m", encode(one), None, 0) for at, one in enumerate(metrics)]


def days(harm: float, first: int = 0, count: int = 6) -> list[QualityMetric]:
    made: list[QualityMetric] = []
    for day in range(first, first + count):
        made.append(metric(1, day, 0.7 + 0.01 * (day % 2), model="m"))
        made.append(metric(2, day, 0.7 + 0.01 * (day % 2) - harm * (1 + 0.01 * (day % 2)), model="m"))
    return made


def take(world: RegistryWorld, *metrics: QualityMetric) -> None:
    with world.sessions.begin() as session:
        take_all(session, records(*metrics))


def commands(world: RegistryWorld) -> list[Any]:
    with world.readers() as session:
        rows = session.scalars(select(OutboxRow).where(OutboxRow.topic == "registry-commands").order_by(OutboxRow.id))
        return [decode(row.payload, AnyRegistryCommand) for row in rows]  # type: ignore[arg-type]


def row_of(world: RegistryWorld) -> ProbationRow:
    with world.readers() as session:
        return session.get_one(ProbationRow, "m")


def test_a_harmful_version_is_sent_back_once(world: RegistryWorld) -> None:
    stream = days(0.1)
    for at in range(len(stream)):
        take(world, *stream[max(at - 2, 0) : at + 1])  # every batch brings some of the last one again
    (command,) = commands(world)
    assert isinstance(command, RollBackModel)
    assert (command.to, command.expected, command.actor) == (1, 2, "policy:probation")
    # No report of a gate here: the second day is the first that can tell chance; its labels are in a day later.
    assert command.at == utc(3 * DAY_MS)
    assert "worse by 0.1" in command.reason
    row = row_of(world)
    assert (row.status, row.version, row.previous) == ("rolled-back", 2, 1)
    assert row.report is not None
    assert row.report["compared"][0]["windows"] == 2


def test_a_good_version_stays(world: RegistryWorld) -> None:
    take(world, *days(-0.01))
    (command,) = commands(world)
    assert isinstance(command, EndProbation)
    assert (command.version, row_of(world).status) == (2, "passed")


def test_a_crash_between_two_batches_changes_nothing(world: RegistryWorld) -> None:
    """What was not committed is taken again; what was is known."""
    stream = days(0.1)
    take(world, *stream[:3])
    with world.sessions() as session:
        take_all(session, records(*stream[3:]))
        session.flush()
        session.rollback()
    assert commands(world) == []
    take(world, *stream)
    assert len(commands(world)) == 1


def test_a_new_promotion_is_a_new_probation(world: RegistryWorld) -> None:
    take(world, *days(0.1, count=1))
    world.candidate(probation="3d")
    take(world, *[metric(v, day, 0.7, model="m") for day in range(1, 3) for v in (1, 2, 3)])
    row = row_of(world)
    assert (row.version, row.previous, row.status) == (3, 2, "running")
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", actor="bea", reason="by hand")
        assert on_probation(session) == set()
    take(world, *days(0.1, 3))
    assert commands(world) == []
