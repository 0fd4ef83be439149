from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from agents.monitoring.aggregate_handler import AggregateHandler, AggregateOptions
from agents.monitoring.aggregate_snapshots import (
    CHUNK_BYTES,
    MOST_HELD,
    Kept,
    Snapshot,
    pack_held,
    pack_snapshot,
    unpack_newest,
)
from agents.monitoring.outputs import event_output
from schemas.codec import decode, utc
from schemas.errors import StateError
from schemas.events import AnyObservation, DeltaBatch, DeltaRecord, JoinedDelta, QualityMetric
from schemas.topics import JOINED_DELTAS, MONITORING_JOURNAL, OBSERVATIONS, QUALITY_METRICS
from streams.kafka.positions import Positions
from streams.kafka.records import Output, Record
from streams.packed import encode_delta
from tests.support.plans import plan, prediction
from tests.support.replay import DAY, Event, deltas, watermark

PLAN = plan(watch=("accuracy",))
WHERE = (JOINED_DELTAS, 0)


class Log:
    """The two topics of one partition, in memory."""

    def __init__(self) -> None:
        self.deltas: list[bytes] = []
        self.journal: list[Record] = []

    def newest(self, partition: int) -> Kept:
        return unpack_newest(self.journal, partition)

    def replay(self, partition: int, start: int, end: int) -> Iterable[bytes]:
        return self.deltas[start:end]

    def append(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.topic == MONITORING_JOURNAL:
                offset = len(self.journal)
                self.journal.append(Record(output.topic, output.partition, offset, output.key, output.value, None, 0))


def _inputs(models: Sequence[str] = ("m",)) -> list[DeltaRecord]:
    rng = random.Random(1)
    out: list[DeltaRecord] = []
    for day in range(12):
        events = []
        for i in range(60):
            score = rng.random()
            p = prediction(f"{day}-{i}", day * DAY + rng.randrange(DAY), value=int(score > 0.5), probability=score)
            events.append(Event(p, int(rng.random() < score), 5_000))
        delta = deltas(PLAN, events)
        out += [
            DeltaBatch([JoinedDelta(model, 1, delta.layout, 0, delta.panes) for model in models]),
            watermark((day + 1) * DAY),
        ]
    return out


def _handler(log: Log, **options: float) -> AggregateHandler:
    given = {"partitions": 1, "provisional_interval_ms": 10**9, "snapshot_interval_ms": 10**9} | options
    return AggregateHandler(log, lambda model, version: PLAN, AggregateOptions(**given))  # type: ignore[arg-type]


def _records(log: Log, start: int, end: int) -> list[Record]:
    return [Record(JOINED_DELTAS, 0, n, b"m", log.deltas[n], None, 0) for n in range(start, end)]


def _positions(start: int, end: int) -> Positions:
    return Positions({WHERE: start}, {WHERE: end}, {WHERE: True})


def _final(outputs: Iterable[Output]) -> list[tuple[str, bytes | None]]:
    return [
        (o.topic, o.value)
        for o in outputs
        if o.topic != MONITORING_JOURNAL and b'"provisional"' not in (o.value or b"")
    ]


@pytest.fixture
def log() -> Log:
    log = Log()
    log.deltas = [encode_delta(record) for record in _inputs()]
    return log


def _expected(log: Log) -> list[tuple[str, bytes | None]]:
    handler = _handler(log, closing_s=3600)  # all of it at once, however busy the machine is
    handler.restore([0], {WHERE: None})
    return _final(handler.process(_records(log, 0, len(log.deltas)), _positions(0, len(log.deltas)), 1))


def test_an_estimate_has_ids_of_its_own() -> None:
    at = utc(DAY)
    window = {"model": "m", "version": 1, "segment": None, "window": "1d", "window_start": utc(0), "window_end": at}
    ids = set()
    for state, revision in (("closed", 0), ("revised", 1)):
        for estimated in (False, True):
            metric = QualityMetric(
                **window, state=state, revision=revision, n=1, coverage=1.0, metrics={}, estimated=estimated
            )
            ids.add(dict(event_output(metric).headers)["ce_id"])
    assert len(ids) == 4


def test_series_and_panes_go_to_their_topics(log: Log) -> None:
    handler = _handler(log)
    handler.restore([0], {WHERE: None})
    outputs = handler.process(_records(log, 0, len(log.deltas)), _positions(0, len(log.deltas)), 1)
    assert {o.key for o in outputs} == {b"m"}
    metrics = [decode(o.value or b"", QualityMetric) for o in outputs if o.topic == QUALITY_METRICS]
    assert {m.state for m in metrics} >= {"closed"}
    panes = [decode(o.value or b"", AnyObservation) for o in outputs if o.topic == OBSERVATIONS]  # type: ignore[arg-type]
    assert len(panes) >= 9
    ids = [dict(o.headers or ())["ce_id"] for o in outputs]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("seed", range(5))
def test_batches_aborts_crashes_and_snapshots_change_no_final_output(log: Log, seed: int) -> None:
    rng = random.Random(seed)
    expected = _expected(log)
    handler = _handler(log, snapshot_interval_ms=0, provisional_interval_ms=1)
    handler.restore([0], {WHERE: None})
    got: list[tuple[str, bytes | None]] = []
    committed = 0
    now = 1
    while committed < len(log.deltas):
        now += 1
        end = min(committed + rng.randint(1, 4), len(log.deltas))
        outputs = list(handler.process(_records(log, committed, end), _positions(committed, end), now))
        fate = rng.random()
        if fate < 0.25:
            handler.aborted()
            continue
        if fate < 0.45:  # the process dies before the commit
            handler = _handler(log, snapshot_interval_ms=0, provisional_interval_ms=1)
            handler.restore([0], {WHERE: committed or None})
            continue
        log.append(outputs)
        got += _final(outputs)
        committed = end
        if fate < 0.6:  # after the commit, before the handler is told
            handler = _handler(log, snapshot_interval_ms=0, provisional_interval_ms=1)
            handler.restore([0], {WHERE: committed})
        else:
            handler.committed({WHERE: end})
    assert got == expected
    assert log.newest(0).snapshot is not None


@pytest.mark.parametrize("seed", range(2))
def test_many_models_close_over_many_batches_and_crashes(seed: int) -> None:
    rng = random.Random(seed)
    log = Log()
    log.deltas = [encode_delta(record) for record in _inputs([f"m{n}" for n in range(7)])]
    expected = _expected(log)

    def worker(committed: int) -> AggregateHandler:
        handler = _handler(log, snapshot_interval_ms=40, closing_s=0)
        handler.restore([0], {WHERE: committed or None})
        return handler

    handler = worker(0)
    got: list[tuple[str, bytes | None]] = []
    committed = 0
    most = 0
    now = 1
    while committed < len(log.deltas) or handler.partitions[0].held():
        now += 1
        end = min(committed + rng.choice([0, 0, 1]), len(log.deltas))
        outputs = list(handler.process(_records(log, committed, end), _positions(committed, end), now))
        most = max(most, len({o.key for o in outputs if o.topic != MONITORING_JOURNAL}))
        fate = rng.random()
        if fate < 0.1:
            handler.aborted()
            continue
        if fate < 0.2:
            handler = worker(committed)
            continue
        if not outputs and end == committed:
            handler.aborted()  # as the processor does where there is nothing to commit
            continue
        log.append(outputs)
        got += _final(outputs)
        committed = end
        if fate < 0.4:
            handler = worker(committed)
        else:
            handler.committed({WHERE: end})
    assert most == 1
    assert sorted(got) == sorted(expected)
    assert len(got) > 100


def test_what_is_held_comes_in_parts_and_the_newest_counts() -> None:
    log = Log()
    many = {f"m{n}": n for n in range(2 * MOST_HELD + 1)}
    log.append(pack_held(0, 5, many))
    assert len(log.journal) == 3
    assert log.newest(0) == Kept(None, 5, many)
    log.append(pack_held(0, 6, {}))
    assert log.newest(0) == Kept(None, 6, {})


def test_provisional_is_sent_again_after_an_abort_and_not_without_news(log: Log) -> None:
    handler = _handler(log, provisional_interval_ms=1)
    handler.restore([0], {WHERE: None})
    handler.process(_records(log, 0, 1), _positions(0, 1), 10)
    handler.aborted()
    first = handler.process(_records(log, 0, 1), _positions(0, 1), 20)
    assert first
    handler.committed({WHERE: 1})
    assert handler.process([], _positions(1, 1), 30) == []
    handler.aborted()
    assert handler.process([], _positions(1, 1), 40) == []


def test_expired_group_offsets_start_from_the_snapshot(log: Log) -> None:
    handler = _handler(log, snapshot_interval_ms=0)
    handler.restore([0], {WHERE: None})
    log.append(handler.process(_records(log, 0, 7), _positions(0, 7), 5))
    handler.committed({WHERE: 7})
    assert _handler(log).restore([0], {WHERE: None}) == {WHERE: 7}
    assert _handler(log).restore([0], {WHERE: 7}) is None


def test_set_back_offsets_rebuild_from_the_log(log: Log) -> None:
    handler = _handler(log, snapshot_interval_ms=0)
    handler.restore([0], {WHERE: None})
    log.append(handler.process(_records(log, 0, 7), _positions(0, 7), 5))
    handler.committed({WHERE: 7})
    fresh, back = _handler(Log()), _handler(log)
    fresh.restore([0], {WHERE: None})
    fresh.process(_records(log, 0, 4), _positions(0, 4), 5)
    back.restore([0], {WHERE: 4})
    assert back.partitions[0].snapshot() == fresh.partitions[0].snapshot()


def test_other_partition_count_is_refused(log: Log) -> None:
    handler = _handler(log, snapshot_interval_ms=0)
    handler.restore([0], {WHERE: None})
    log.append(handler.process(_records(log, 0, 3), _positions(0, 3), 5))
    with pytest.raises(StateError, match="snapshot is of 1 partitions, predictions has 4"):
        _handler(log, partitions=4).restore([0], {WHERE: 3})


def test_foreign_bytes_do_not_stop_the_stream(log: Log) -> None:
    handler = _handler(log)
    handler.restore([0], {WHERE: None})
    foreign = Record(JOINED_DELTAS, 0, 0, None, b"not a delta", None, 0)
    assert handler.process([foreign, foreign._replace(value=None)], _positions(0, 2), 1) == []


def test_large_snapshots_are_chunked_and_incomplete_ones_are_passed_over() -> None:
    log = Log()
    old, new = Snapshot(5, random.Random(1).randbytes(3 * CHUNK_BYTES // 2)), Snapshot(9, b"x" * CHUNK_BYTES * 2)
    log.append(pack_snapshot(0, old))
    assert [len(r.value or b"") < 1_000_000 for r in log.journal] == [True] * 3
    assert log.newest(0).snapshot == old
    torn = pack_snapshot(0, new)
    log.append(torn[1:])  # the first chunk is gone
    assert log.newest(0).snapshot == old
    log.append(torn)
    assert log.newest(0).snapshot == new
    assert log.newest(1) == Kept()


def test_released_partitions_are_forgotten(log: Log) -> None:
    handler = _handler(log)
    handler.restore([0, 1], {WHERE: None})
    handler.released([1])
    assert set(handler.partitions) == {0}
