"""process, journal, changes, commit or abort; checkpoint, snapshot and rebuild: each in its order, each as promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.errors import StateError
from schemas.events import JournalRecord
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join.batch import JoinOutcome, Slice
from streams.join.partition import TOPICS, JoinPartition
from streams.join.totals import NAMES as TOTALS
from tests.support.differential import LIMITS, seen
from tests.support.joins import IMPLEMENTATIONS, View, Worker, implementation
from tests.support.plans import plan, prediction

PLAN = plan(windows=("50ms",), delay="100ms", horizon="200ms")
REGRESSION = plan("regression", windows=("50ms",), delay="100ms", horizon="200ms")
VIEW = View({("m", 1): PLAN, ("m", 2): PLAN, ("n", 1): REGRESSION})
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)


def _worker(name: str, partition: int = 0) -> Worker:
    return Worker(VIEW, LIMITS, partition, implementation(name))


def _traffic(worker: Worker) -> None:
    """Twelve moments with something of everything: pending, labelled, corrected, withdrawn, waiting, late, refused."""
    for moment in range(12):
        at = moment * 60
        p = prediction(f"a{moment}", at, origin="JFK" if moment % 2 else "LGA")
        worker.predict(p)
        worker.predict(msgspec.structs.replace(p, version=2))  # a challenger
        worker.predict(prediction(f"b{moment}", at))
        worker.predict(msgspec.structs.replace(prediction(f"n{moment}", at, value=3.5), model="n"))
        worker.predict(prediction("a0", 0, value=0))  # another payload
        worker.label(f"a{moment}", at + 30, 1)
        worker.label(f"n{moment}", at + 30, 4.0)
        worker.label(f"a{moment - 2}", at, 0, 1)
        worker.label(f"w{moment}", at, 1)  # its prediction never comes
        worker.label(f"b{moment - 4}", at + 10, 1)  # too late
        if moment % 3 == 0:
            worker.tombstone(f"a{moment}")
            worker.send(GROUND_TRUTH, b"{", b"x", [("trace", b"1")])


TAKE = {PREDICTIONS: 5, GROUND_TRUTH: 6}


class Kept:
    """A worker's folder: what `changes` puts and deletes, and `meta` after each commit."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.meta = b""

    def step(self, worker: Worker, take: dict[str, int] | None = None) -> dict[str, Any]:
        """One batch, checkpointed as a worker does it; all that can be seen of it."""
        batch = worker.slice(take)
        outcome = worker.join.process(batch, worker.view)
        record = worker.join.journal(batch, worker.view.epoch, 4)
        puts, deletes = worker.join.changes()
        worker.join.commit()
        self.rows |= puts
        for key in deletes:
            self.rows.pop(key, None)
        self.meta = worker.join.meta()
        worker.at = dict(batch.ends)
        worker.journal.append((worker.journal[-1][0] + 2 if worker.journal else 0, record))
        return {**seen(outcome), "journal": msgspec.structs.asdict(record), "totals": worker.join.totals}

    def opened(self, worker: Worker) -> JoinPartition:
        return worker.joins.from_checkpoint(worker.partition, LIMITS, self.meta, list(self.rows.items()))  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- one batch


@NAMES
def test_a_new_partition_is_empty(name: str) -> None:
    join = _worker(name, 3).join
    assert (join.partition, len(join), join.watermark_ms, join.sequence, join.journal_next) == (3, 0, -1, 0, 0)
    assert join.totals == dict.fromkeys(TOTALS, 0)
    assert join.idle == dict.fromkeys(TOPICS, False)
    assert join.generations == []


@NAMES
def test_nothing_counts_before_its_commit(name: str) -> None:
    worker = _worker(name)
    _traffic(worker)
    worker.step(TAKE)
    join = worker.join

    def state() -> tuple[Any, ...]:
        return join.totals, join.watermark_ms, join.idle, join.sequence, join.journal_next, len(join), join.digest()

    before = state()
    batch = worker.slice(TAKE, {PREDICTIONS: True})
    first = seen(join.process(batch, VIEW))
    record = join.journal(batch, 1, 4)
    assert state()[:-2] == before[:-2]  # how many live, and the digest, are asked for between batches only
    join.abort()
    assert state() == before
    assert seen(join.process(batch, VIEW)) == first, "an aborted batch comes again as it was"
    assert join.journal(batch, 1, 4) == record
    join.commit()
    assert join.totals == record.totals != before[0]
    assert (join.watermark_ms, join.idle) == (record.watermark_ms, {PREDICTIONS: True, GROUND_TRUTH: False})
    assert (join.sequence, join.journal_next) == (before[3] + 1, before[4] + 2)
    assert join.digest() != before[-1]


@NAMES
@pytest.mark.parametrize(
    "act",
    [
        lambda join, batch: join.commit(),
        lambda join, batch: join.journal(batch, 1, 4),
        lambda join, batch: join.changes(),
    ],
    ids=["commit", "journal", "changes"],
)
def test_without_a_batch_there_is_nothing_to_keep(name: str, act: Callable[[Any, Slice], Any]) -> None:
    worker = _worker(name)
    with pytest.raises(StateError, match="no batch is open"):
        act(worker.join, worker.slice())
    worker.predict(prediction("a", 0))
    worker.step()
    with pytest.raises(StateError, match="call process first"):
        act(worker.join, worker.slice())


@NAMES
def test_a_batch_waits_for_the_one_before(name: str) -> None:
    worker = _worker(name)
    worker.predict(prediction("a", 0))
    worker.join.process(worker.slice(), VIEW)
    with pytest.raises(StateError, match="neither committed nor aborted"):
        worker.join.process(worker.slice(), VIEW)
    worker.join.abort()
    worker.join.abort()  # harmless
    worker.step()
    assert worker.total["predictions"] == 1


@NAMES
def test_an_empty_batch_says_nothing_and_is_journalled_all_the_same(name: str) -> None:
    worker = _worker(name)
    worker.step()
    outcome = worker.outcomes[-1]
    assert (outcome.deltas, outcome.dead_letters, outcome.watermark_moved) == ([], [], False)
    assert worker.join.sequence == 1
    _, record = worker.journal[-1]
    assert record.slices == dict.fromkeys(TOPICS, (0, 0))


@NAMES
def test_the_watermark_is_told_when_it_or_the_idle_flag_changes(name: str) -> None:
    worker = _worker(name)
    told = []
    for at, idle in ((None, False), (100, False), (None, False), (None, True), (None, True), (100, True), (101, False)):
        if at is not None:
            worker.beat(at)
        worker.step(idle=dict.fromkeys(TOPICS, idle))
        outcome: JoinOutcome = worker.outcomes[-1]
        told.append((outcome.watermark_ms, outcome.idle, outcome.watermark_moved))
    assert told == [
        (-1, False, False),
        (100, False, True),
        (100, False, False),
        (100, True, True),
        (100, True, False),
        (100, True, False),
        (101, False, True),
    ]


@NAMES
def test_the_journal_says_what_a_rebuild_needs(name: str) -> None:
    worker = _worker(name)
    _traffic(worker)
    while any(worker.at[topic] < len(worker.log[topic]) for topic in TOPICS):
        before, starts = worker.join.sequence, dict(worker.at)
        worker.step(TAKE, {GROUND_TRUTH: before % 2 == 1})
        record = worker.journal[-1][1]
        assert record.slices == {topic: (starts[topic], worker.at[topic]) for topic in TOPICS}
        assert (record.partition, record.partitions, record.registry_epoch) == (0, 4, VIEW.epoch)
        assert (record.sequence, record.totals) == (before + 1, worker.total)
        assert (record.watermark_ms, record.idle[GROUND_TRUTH]) == (worker.join.watermark_ms, before % 2 == 1)
        assert all(record.low_water[topic] <= worker.at[topic] for topic in TOPICS)
        assert record.low_water_watermark_ms <= record.watermark_ms
        assert record.journal_low_water <= worker.journal[-1][0] + 2
        assert msgspec.json.decode(msgspec.json.encode(record), type=JournalRecord) == record


# --------------------------------------------------------------------------------------------- coming back


def _ways(worker: Worker, kept: Kept) -> dict[str, Callable[[], Any]]:
    """All the ways a partition comes back; each is to give the same."""

    def rewritten() -> Any:
        rows = worker.join.rewritten()
        return worker.joins.from_checkpoint(0, LIMITS, worker.join.meta(), list(rows.items()))

    return {
        "checkpoint": lambda: kept.opened(worker),
        "whole checkpoint": rewritten,
        "snapshot": lambda: worker.joins.from_snapshot(0, LIMITS, worker.join.snapshot()),
        "rebuild": worker.rebuilt,
    }


@NAMES
@pytest.mark.parametrize("way", ["checkpoint", "whole checkpoint", "snapshot", "rebuild"])
def test_a_partition_comes_back_after_every_commit_as_it_was(name: str, way: str) -> None:
    worker, kept = _worker(name), Kept()
    _traffic(worker)
    while any(worker.at[topic] < len(worker.log[topic]) for topic in TOPICS):
        kept.step(worker, TAKE)
        again = _ways(worker, kept)[way]()
        join = worker.join
        assert again.digest() == join.digest()
        assert (again.totals, len(again), again.watermark_ms, again.idle) == (
            join.totals,
            len(join),
            join.watermark_ms,
            join.idle,
        )
        assert (again.sequence, again.journal_next) == (join.sequence, join.journal_next)


@NAMES
@pytest.mark.parametrize("way", ["checkpoint", "snapshot", "rebuild"])
def test_a_partition_that_came_back_goes_on_as_the_other(name: str, way: str) -> None:
    steady, shaken = _worker(name), _worker(name)
    folders = [Kept(), Kept()]
    for worker in (steady, shaken):
        _traffic(worker)
        worker.beat(5_000)
    while any(steady.at[topic] < len(steady.log[topic]) for topic in TOPICS):
        wanted, got = (kept.step(worker, TAKE) for worker, kept in zip((steady, shaken), folders, strict=True))
        if way == "rebuild":  # its low water may lie nearer: it forgot what no longer lives
            for record in (wanted["journal"], got["journal"]):
                for field in [field for field in record if "low_water" in field]:
                    del record[field]
        assert got == wanted
        shaken.join = _ways(shaken, folders[1])[way]()
        if way == "rebuild":
            folders[1].rows = shaken.join.rewritten()
    assert len(shaken.join) == 0


@NAMES
def test_a_rebuild_takes_the_journals_word_on_time(name: str) -> None:
    """Whether a topic was idle is seen once, and decides what expires: a rebuild cannot see it again."""
    worker = _worker(name)
    worker.predict(prediction("a", 0))
    worker.predict(prediction("b", 500))
    worker.step(idle={GROUND_TRUTH: True})
    worker.label("a", 90)
    worker.step()
    assert (worker.total["expired"], worker.total["labels.late"]) == (1, 1)
    again = worker.rebuilt()
    assert again.digest() == worker.join.digest()
    assert again.watermark_ms == 480


@NAMES
def test_a_rebuild_sees_the_registry_as_it_was(name: str) -> None:
    early = View({("m", 1): PLAN}, epoch=1)
    late = View({("m", 1): PLAN, ("m", 2): PLAN}, epoch=2)
    worker = Worker(early, LIMITS, joins=implementation(name))
    second = msgspec.structs.replace(prediction("a", 0), version=2)
    worker.predict(second)
    worker.predict(prediction("a", 0))
    worker.step()
    worker.view = late
    worker.predict(second)
    worker.label("a", 10)
    worker.step()
    assert (worker.total["predictions.skipped"], worker.total["labelled"]) == (1, 2)
    assert worker.rebuilt(early, late).digest() == worker.join.digest()


@NAMES
def test_a_checkpoint_that_cannot_be_read_is_refused_with_what_to_do(name: str) -> None:
    worker, kept = _worker(name), Kept()
    _traffic(worker)
    kept.step(worker)
    joins = worker.joins
    meta = msgspec.msgpack.decode(kept.meta)
    foreign = msgspec.msgpack.encode([meta[0] + 1, *meta[1:]])
    for broken in (foreign, b"", kept.meta[:-3], b"\x93nonsense"):
        with pytest.raises(StateError) as caught:
            joins.from_checkpoint(7, LIMITS, broken, list(kept.rows.items()))
        assert caught.value.where == "partition 7"
        assert "delete the state folder" in caught.value.remedy
    key = max(kept.rows, key=lambda key: len(kept.rows[key]))
    damaged = kept.rows | {key: kept.rows[key][:-3]}
    with pytest.raises(StateError, match="cannot be read"):
        joins.from_checkpoint(7, LIMITS, kept.meta, list(damaged.items()))


@NAMES
def test_what_a_batch_costs_the_folder_is_what_it_changed(name: str) -> None:
    """Not all that lives: a checkpoint of a batch is small however much state there is."""
    worker, kept = _worker(name), Kept()
    for number in range(2_000):
        worker.predict(prediction(f"p{number}", 0))
    kept.step(worker)
    whole = sum(map(len, kept.rows.values()))
    worker.label("p7", 10)
    batch = worker.slice()
    worker.join.process(batch, VIEW)
    worker.join.journal(batch, 1, 4)
    puts, _ = worker.join.changes()
    worker.join.commit()
    assert 0 < sum(map(len, puts.values())) < whole / 20
