"""Any batching and any interleaving that keeps the order within each topic gives the same result, windows included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.events import GroundTruth, Heartbeat
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.aggregate import AggregateEvent
from streams.join.batch import JoinLimits
from streams.metrics.compute import compute
from tests.support import oracle
from tests.support.joins import HEARTBEAT, IMPLEMENTATIONS, NOW_MS, implementation
from tests.support.plans import plan, prediction
from tests.support.stages import Batch, Sent, Stages

PLANS = {
    ("m", 1): plan(windows=("50ms", "100ms", "3n", "100ms/100ms+50ms"), delay="100ms", horizon="200ms"),
    ("m", 2): plan(windows=("50ms",), delay="150ms", horizon="60ms"),
    ("n", 1): plan("regression", windows=("30ms", "90ms"), delay="100ms", horizon="200ms"),
}
GRACE_MS = 40
LIMITS = JoinLimits(grace_ms=GRACE_MS, future_tolerance_ms=1_000)
TOPICS = (PREDICTIONS, GROUND_TRUTH)
PARTITION_OF = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)

_ids = st.sampled_from(sorted(PARTITION_OF))


def _garbage(draw: st.DrawFn) -> tuple[bytes, Any]:
    future = (
        encode(prediction("a", NOW_MS + 1_001)),
        encode(GroundTruth(prediction_id="a", event_time_ms=NOW_MS + 1_001, label=1)),
    )
    value = draw(st.sampled_from([b"", b"{", b"\xff", b"[]", b'{"prediction_id":""}', *future]))
    return value, draw(st.sampled_from([None, None, HEARTBEAT]))


@st.composite
def traffic(draw: st.DrawFn, tombstones: bool = True) -> list[Sent]:
    """Records of both topics in the order they arrive: by event time, with disorder within the grace."""
    born = {key: draw(st.integers(0, 700)) for key in PARTITION_OF}
    sent: list[Sent] = []
    for key in draw(st.lists(_ids, max_size=12)):
        model, version = draw(st.sampled_from([("m", 1), ("m", 1), ("m", 2), ("n", 1), ("x", 1)]))
        at = born[key] + draw(st.sampled_from([0, 0, 0, 7, 30]))
        value = draw(st.sampled_from([0, 1, 1, 1, "wrong"] if model == "n" else [0, 1]))
        p = prediction(key, at, value=value, origin=draw(st.sampled_from(["JFK", None])))
        p = msgspec.structs.replace(p, model=model, version=version)
        arrives = at + draw(st.integers(0, GRACE_MS))
        sent.append(Sent(arrives, PREDICTIONS, PARTITION_OF[key], encode(p), key.encode()))
    for key in draw(st.lists(_ids, max_size=14)):
        after = draw(st.sampled_from([-400, -201, -200, -20, 0, 20, 99, 100, 101, 150, 250, 300, 301, 302, 400]))
        at = max(0, born[key] + after)
        label: Any = draw(st.sampled_from([0, 1, 0.0, None, "wrong"]))
        truth = GroundTruth(
            prediction_id=key, event_time_ms=at, label=label, revision=draw(st.sampled_from([0, 0, 1, -1]))
        )
        arrives = at + draw(st.integers(0, GRACE_MS))
        sent.append(Sent(arrives, GROUND_TRUTH, PARTITION_OF[key], encode(truth), key.encode()))
        # A tombstone has no event time: it follows a label that is within every prediction's reach.
        if tombstones and born[key] - 100 <= at <= born[key] + 200 and draw(st.integers(0, 5)) == 0:
            sent.append(Sent(arrives, GROUND_TRUTH, PARTITION_OF[key], None, key.encode()))
    for arrives in draw(st.lists(st.integers(0, 900), max_size=4)):
        topic, partition = draw(st.sampled_from(TOPICS)), draw(st.integers(0, 1))
        if draw(st.booleans()):
            value, headers = _garbage(draw)
        else:
            # An honest one: nothing older than the grace is still to come.
            value, headers = encode(Heartbeat(event_time_ms=max(0, arrives - GRACE_MS))), HEARTBEAT
        sent.append(Sent(arrives, topic, partition, value, None, headers))
    return sorted(sent, key=lambda item: item.arrives_ms)


batches = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 5), st.integers(0, 1)), max_size=16)


def _run(sent: Sequence[Sent], schedule: Sequence[Batch], joins: type[Any]) -> Stages:
    return Stages(PLANS, LIMITS, sent, schedule, joins)


def _told(events: Sequence[AggregateEvent]) -> Counter[bytes]:
    return Counter(map(encode, events))


@NAMES
@settings(max_examples=80, deadline=None)
@given(traffic(), batches, batches)
def test_same_result(name: str, sent: list[Sent], one: list[Batch], other: list[Batch]) -> None:
    joins = implementation(name)
    runs = [_run(sent, one, joins), _run(sent, other, joins), _run(sent, [], joins)]
    # Before event time has passed everything: what is still open is open everywhere.
    assert runs[0].totals == runs[1].totals == runs[2].totals
    assert runs[0].merged == runs[1].merged == runs[2].merged
    for partition in range(2):
        assert len({run.workers[partition].join.watermark_ms for run in runs}) == 1

    verdicts = [oracle.judge(worker.log, PLANS, future_ms=1_000, now_ms=NOW_MS) for worker in runs[0].workers]
    for run in runs:
        run.finish()
        for worker, verdict in zip(run.workers, verdicts, strict=True):
            assert worker.merged == verdict.deltas
            beats = {"heartbeats": verdict.totals.get("heartbeats", 0) + 2}
            assert {name: n for name, n in worker.total.items() if n} == verdict.totals | beats
            dead = {(letter.record.topic, letter.record.offset, letter.reason) for letter in worker.dead}
            assert dead == verdict.dead
            assert len(worker.join) == 0

    # … and through the aggregation: every window in the end is what all records add up to.
    whole = oracle.Verdict()
    for verdict in verdicts:
        whole.counters.update(verdict.counters)
    wanted = oracle.windows(PLANS, whole)
    for run in runs:
        found = run.windows
        assert {key for key in found if key[4] is not None} == wanted.keys()
        for key, (coverage, total) in wanted.items():
            metric, of = found[key], PLANS[key[0], key[1]]
            assert (metric.n, metric.coverage) == (coverage.labelled, coverage.labelled / coverage.predicted)
            counts = np.zeros(of.segment_size if key[2] else of.size, dtype=np.int64)
            for position, n in total.items():
                counts[position] += n
            assert encode(metric.metrics) == encode(compute(of, counts))
        counted = {key: (m.n, m.coverage, m.window_start) for key, m in found.items() if key[4] is None}
        assert counted == {
            key: (m.n, m.coverage, m.window_start) for key, m in runs[2].windows.items() if key[4] is None
        }


@NAMES
@settings(max_examples=40, deadline=None)
@given(traffic(tombstones=False), batches, batches)
def test_everything_told_is_the_same(name: str, sent: list[Sent], one: list[Batch], other: list[Batch]) -> None:
    """Closings, revisions and observations too, where every record has an event time (a tombstone has none)."""
    joins = implementation(name)
    runs = [_run(sent, one, joins), _run(sent, other, joins), _run(sent, [], joins)]
    for run in runs:
        run.finish()
    assert _told(runs[0].events) == _told(runs[1].events) == _told(runs[2].events)


@NAMES
@settings(max_examples=40, deadline=None)
@given(traffic(), batches)
def test_watermark_never_goes_back(name: str, sent: list[Sent], schedule: list[Batch]) -> None:
    for worker in _run(sent, schedule, implementation(name)).workers:
        watermarks = [watermark for watermark, _ in worker.sums]
        assert watermarks == sorted(watermarks)
