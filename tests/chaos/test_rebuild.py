"""State that is lost, old or foreign: a rebuild from journal and log arrives at the same state, or says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from agents.artifacts import ArtifactStore
from agents.monitoring import journal
from agents.monitoring.agent import check_topics, join_states
from agents.monitoring.join_state import Identity, JoinStates
from agents.monitoring.registry_view import RegistryView
from schemas.errors import RetentionPassedError, StateError, TopicError
from schemas.events import JournalRecord
from schemas.topics import GROUND_TRUTH, MONITORING_JOURNAL, PREDICTIONS
from streams.kafka.admin import topic_ids
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from streams.state.store import PartitionStore
from tests.support.monitoring import Installation, Traffic
from tests.support.wait import eventually


@pytest.fixture
def house(kafka: KafkaConfig, tmp_path: Path) -> Installation:
    """An installation whose worker read all of its traffic and stopped; days at the end of it still live."""
    house = Installation(kafka, tmp_path, batch_records=100, commit_interval_ms=5)
    house.register(1)
    traffic = Traffic(3)
    with EventProducer(kafka) as producer, house.follow() as progress, house.worker():
        events = traffic.make(1_500, days=60)
        step = len(events) // 10 + 1
        for start in range(0, len(events), step):
            # Piece by piece: neither topic is read far ahead of the other, as it is in production.
            traffic.send(producer, events[start : start + step])
            producer.flush()
            eventually(lambda: progress.read() == sum(traffic.sent.values()), timeout=60)
    return house


@pytest.fixture
def registry(house: Installation) -> Iterator[RegistryView]:
    with closing(RegistryView(house.kafka, ArtifactStore.of(house.settings))) as view:
        yield view


def states_of(house: Installation, registry: RegistryView) -> JoinStates:
    return join_states(house.settings, house.kafka, registry, house.partitions)


def digests(states: JoinStates, partitions: int) -> list[tuple[str, int, dict[str, int]]]:
    newest = states.newest({})
    found = []
    for number in range(partitions):
        kept = states.open(number, newest.get(number))
        found.append((kept.join.digest(), len(kept.join), kept.join.totals))
        kept.store.close()
    return found


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of partitions; that there is no native core, where it was not built, is no matter here."""
    lines = [line.message for line in caplog.records if line.message.startswith("partition ")]
    assert lines
    return lines


def delete_records(kafka: KafkaConfig, topic: str, partition: int, until: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(kafka.topic(topic), partition, until)]).values():
        future.result(10)


def early_record(kafka: KafkaConfig, partition: int) -> tuple[int, JournalRecord]:
    """The last journal record of a partition that still needs everything from its first one on."""
    found = [
        (record.offset, journal.to_journal(record))
        for record in read_all(kafka, MONITORING_JOURNAL)
        if record.partition == partition and journal.is_join_record(record)
    ]
    return max((at for at in found if at[1].low_water_sequence == 1), key=lambda at: at[0])


def record_before(kafka: KafkaConfig, newest: tuple[int, JournalRecord]) -> tuple[int, JournalRecord]:
    """A journal record of a partition, three commits before another, or fewer: nothing that lives then is older."""
    partition, sequence = newest[1].partition, max(newest[1].sequence - 3, newest[1].low_water_sequence - 1)
    found = [
        (record.offset, journal.to_journal(record))
        for record in read_all(kafka, MONITORING_JOURNAL)
        if record.partition == partition and journal.is_join_record(record)
    ]
    return next(at for at in found if at[1].sequence == sequence)


class KilledError(Exception):
    """As if the process had ended here."""


def killed_at_second(write: Callable[..., None]) -> Callable[..., None]:
    """A store's `write` that does its work once."""
    calls = 0

    def once(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KilledError
        write(*args)

    return once


def test_lost_old_and_foreign_folders(
    house: Installation, registry: RegistryView, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "driftline.monitoring")
    states = states_of(house, registry)
    folder = house.settings.state_dir / "monitoring-join-0"
    live = digests(states, house.partitions)
    assert all("opened with" in line for line in told(caplog)), "the folder is used as the worker left it"
    assert all(0 < entries < 1_500 // house.partitions for _, entries, _ in live)

    # A folder that was made before the group's first commit, which another worker made: it knows no offsets at all.
    early = early_record(house.kafka, 0)
    found = []
    for made_before in (False, True):
        shutil.rmtree(folder)
        if made_before:
            states.open(0, None).store.close()
        kept = states.open(0, early)
        found.append((kept.join.digest(), len(kept.join)))
        kept.store.close()
    assert found[0] == found[1]
    assert found[0][1] > 0

    # A folder as a worker left it that was killed a few commits ago. Made while the log is whole: what lived then may
    # begin before what lives now.
    newest = journal.newest(house.kafka)
    near = folder.parent / "near"
    shutil.rmtree(folder)
    states.open(0, record_before(house.kafka, newest[0])).store.close()
    shutil.copytree(folder / "0", near)

    # Everything before the low water may be gone: a rebuild does not need it.
    for number, (_, record) in newest.items():
        assert 0 < record.low_water[PREDICTIONS] < record.slices[PREDICTIONS][1]
        for topic, offset in record.low_water.items():
            delete_records(house.kafka, topic, number, offset)
        delete_records(house.kafka, MONITORING_JOURNAL, number, record.journal_low_water)
    shutil.rmtree(folder)
    assert digests(states, house.partitions) == live
    assert "rebuilt from" in caplog.text

    # What a rebuild left is a folder like any other.
    caplog.clear()
    assert digests(states, house.partitions) == live
    assert all("opened with" in line for line in told(caplog))

    # A worker that is killed while it rebuilds, or while it brings a folder up to date.
    for before in (None, near):
        shutil.rmtree(folder / "0")
        if before is not None:
            shutil.copytree(before, folder / "0")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PartitionStore, "write", killed_at_second(PartitionStore.write))
            with pytest.raises(KilledError):
                states.open(0, newest[0])
        caplog.clear()
        assert digests(states, 1) == live[:1]
        assert ("brought up to date" if before else "rebuilt from") in caplog.text

    # Room for next to nothing: everything is read from the folder when it is asked for.
    states._memory_bytes = 1
    kept = states.open(0, newest[0])
    assert kept.join.digest() == live[0][0]
    kept.store.close()
    states._memory_bytes = 1 << 30

    # A folder that is ahead of the log, as a restored backup of the broker would make it.
    store = PartitionStore(folder / "0")
    meta = msgspec.msgpack.decode(store.meta("join") or b"")
    sequence = newest[0][1].sequence
    assert meta.count(sequence) == 1
    store.write({}, [], {"join": msgspec.msgpack.encode([sequence + 1 if item == sequence else item for item in meta])})
    store.close()
    assert digests(states, house.partitions) == live
    assert "ahead of the log" in caplog.text

    # Topics made anew under the same names.
    caplog.clear()
    foreign = JoinStates(
        house.kafka,
        registry,
        folder.parent / folder.name,
        Identity(3, {PREDICTIONS: "another"}),
        states._limits,
        states._joins,
    )
    assert digests(foreign, house.partitions) == live
    assert "of other topics" in caplog.text


def test_refusals(house: Installation, registry: RegistryView) -> None:
    states = states_of(house, registry)
    newest = states.newest({})

    # Another partition count: the journal says so, and so does the folder.
    ids = topic_ids(house.kafka, (PREDICTIONS, GROUND_TRUTH, MONITORING_JOURNAL))
    grown = JoinStates(
        house.kafka,
        registry,
        house.settings.state_dir / "monitoring-join-0",
        Identity(4, ids),
        states._limits,
        states._joins,
    )
    for last in (newest[0], None):
        with pytest.raises(StateError, match=r"of 3 partitions, the topics have 4") as refused:
            grown.open(0, last)
        assert "drain" in refused.value.remedy
    with pytest.raises(TopicError, match="should have 4"):
        check_topics(house.settings.model_copy(update={"partitions": 4}), house.kafka)

    # Offsets that the journal does not know.
    committed = {(PREDICTIONS, 0): newest[0][1].slices[PREDICTIONS][1] - 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.monitoring.join_state._JOURNAL_WAIT_S", 0.0)
        with pytest.raises(StateError, match="not those of the journal"):
            states.newest(committed)

    # Records that live state needs are gone.
    end = newest[0][1].slices[PREDICTIONS][1]
    delete_records(house.kafka, PREDICTIONS, 0, end)
    shutil.rmtree(house.settings.state_dir)
    with pytest.raises(RetentionPassedError, match=f"to {end} are gone"):
        states.open(0, newest[0])

    # Journal records that are missing.
    at = replace_sequence(newest[1])
    with pytest.raises(StateError, match="is missing"):
        states.open(1, at)


def replace_sequence(newest: tuple[int, journal.JournalRecord]) -> tuple[int, journal.JournalRecord]:
    offset, record = newest
    return offset, msgspec.structs.replace(record, sequence=record.sequence + 1)
