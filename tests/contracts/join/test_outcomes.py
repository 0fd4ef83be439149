"""One table: what is sent, and what it comes to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.codec import encode
from schemas.events import Heartbeat
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join.batch import JoinLimits
from tests.support.joins import HEARTBEAT, IMPLEMENTATIONS, NOW_MS, View, Worker, implementation
from tests.support.plans import plan, prediction

PLAN = plan(windows=("50ms",), delay="100ms", horizon="200ms")
SHORT = plan("regression", windows=("50ms",), delay="50ms", horizon="200ms")
LIMITS = JoinLimits(grace_ms=10, future_tolerance_ms=1_000)
Step = tuple[Any, ...]
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)


def act(worker: Worker, step: Step) -> None:
    name, *arguments = step
    if name == "p":
        key, at, *rest = arguments
        given = rest[0] if rest else {}
        p = prediction(key, at, value=given.get("value", 1))
        worker.predict(msgspec.structs.replace(p, model=given.get("model", "m"), version=given.get("version", 1)))
    elif name == "l":
        worker.label(*arguments)
    elif name == "tombstone":
        worker.tombstone(*arguments)
    elif name == "raw":
        worker.send(*arguments)
    elif name == "beat":
        worker.beat(*arguments)
    else:
        worker.step()


TABLE: dict[str, tuple[list[Step], dict[str, int], list[str]]] = {
    "pending": ([("p", "a", 0)], {"predictions": 1, "pending": 1}, []),
    "labelled": (
        [("p", "a", 0), ("l", "a", 100)],
        {"predictions": 1, "labelled": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "label first": (
        [("l", "a", 50), ("step",), ("p", "a", 0)],
        {"predictions": 1, "labelled": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "label waits": ([("l", "a", 50)], {"labels": 1, "labels.waiting": 1}, []),
    "orphan": ([("l", "a", 50), ("step",), ("beat", 251)], {"labels": 1, "labels.orphaned": 1, "heartbeats": 2}, []),
    "not yet an orphan": (
        [("l", "a", 50), ("step",), ("beat", 250)],
        {"labels": 1, "labels.waiting": 1, "heartbeats": 2},
        [],
    ),
    "expired": ([("p", "a", 0), ("step",), ("beat", 101)], {"predictions": 1, "expired": 1, "heartbeats": 2}, []),
    "not yet expired": (
        [("p", "a", 0), ("step",), ("beat", 100)],
        {"predictions": 1, "pending": 1, "heartbeats": 2},
        [],
    ),
    "late by event time": (
        [("p", "a", 0), ("l", "a", 101)],
        {"predictions": 1, "pending": 1, "labels": 1, "labels.late": 1},
        ["late"],
    ),
    "late because expired": (
        [("p", "a", 0), ("step",), ("beat", 101), ("step",), ("l", "a", 50)],
        {"predictions": 1, "expired": 1, "heartbeats": 2, "labels": 1, "labels.late": 1},
        ["late"],
    ),
    "late before its prediction came": (
        [("l", "a", 150), ("step",), ("p", "a", 0)],
        {"predictions": 1, "pending": 1, "labels": 1, "labels.late": 1},
        ["late"],
    ),
    "duplicate prediction": (
        [("p", "a", 0), ("p", "a", 0)],
        {"predictions": 1, "pending": 1, "predictions.duplicate": 1},
        [],
    ),
    "duplicate after the label": (
        [("p", "a", 0), ("l", "a", 10), ("step",), ("p", "a", 0)],
        {"predictions": 1, "labelled": 1, "predictions.duplicate": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "conflicting prediction": (
        [("p", "a", 0), ("p", "a", 0, {"value": 0})],
        {"predictions": 1, "pending": 1, "predictions.dead": 1},
        ["conflicting-prediction"],
    ),
    "two versions share an id": (
        [("p", "a", 0), ("p", "a", 0, {"version": 2}), ("l", "a", 10)],
        {"predictions": 2, "labelled": 2, "labels": 1, "labels.matched": 1},
        [],
    ),
    "a version that comes after the label": (
        [("p", "a", 0), ("l", "a", 10), ("step",), ("p", "a", 0, {"version": 2})],
        {"predictions": 2, "labelled": 2, "labels": 1, "labels.matched": 1},
        [],
    ),
    "unknown model": ([("p", "a", 0, {"model": "x"})], {"predictions.skipped": 1}, []),
    "unknown version": ([("p", "a", 0, {"version": 9})], {"predictions.skipped": 1}, []),
    "duplicate label": (
        [("p", "a", 0), ("l", "a", 10), ("l", "a", 10)],
        {"predictions": 1, "labelled": 1, "labels": 2, "labels.matched": 1, "labels.duplicate": 1},
        [],
    ),
    "correction": (
        [("p", "a", 0), ("l", "a", 10, 1), ("l", "a", 210, 0, 1)],
        {"predictions": 1, "labelled": 1, "revised": 1, "labels": 2, "labels.matched": 2, "labels.revised": 1},
        [],
    ),
    "correction of the same revision": (
        [("p", "a", 0), ("l", "a", 10, 1), ("l", "a", 20, 0)],
        {"predictions": 1, "labelled": 1, "revised": 1, "labels": 2, "labels.matched": 2, "labels.revised": 1},
        [],
    ),
    "the same again at another time is a correction that changes nothing": (
        [("p", "a", 0), ("l", "a", 10, 1), ("l", "a", 20, 1)],
        {"predictions": 1, "labelled": 1, "labels": 2, "labels.matched": 2, "labels.revised": 1},
        [],
    ),
    "correction when no first label could come any more": (
        [("p", "a", 0), ("l", "a", 100, 1), ("step",), ("beat", 250), ("step",), ("l", "a", 300, 0, 1)],
        {
            **{"predictions": 1, "labelled": 1, "revised": 1, "heartbeats": 2},
            **{"labels": 2, "labels.matched": 2, "labels.revised": 1},
        },
        [],
    ),
    "withdrawn and given again when no first label could come any more": (
        [
            ("p", "a", 0),
            ("l", "a", 90, 1),
            ("l", "a", 95, None, 1),
            ("step",),
            ("beat", 250),
            ("step",),
            ("l", "a", 280, 1, 2),
        ],
        {
            **{"predictions": 1, "labelled": 1, "revised": 1, "withdrawn": 1, "heartbeats": 2},
            **{"labels": 3, "labels.matched": 3, "labels.revised": 2},
        },
        [],
    ),
    "duplicate prediction when no label could come any more": (
        [("p", "a", 0), ("step",), ("beat", 250), ("step",), ("p", "a", 0)],
        {"predictions": 1, "expired": 1, "predictions.duplicate": 1, "heartbeats": 2},
        [],
    ),
    "correction of what is forgotten": (
        [("p", "a", 0), ("l", "a", 10, 1), ("step",), ("beat", 301), ("step",), ("l", "a", 200, 0, 1), ("beat", 401)],
        {
            **{"predictions": 1, "labelled": 1, "heartbeats": 4},
            **{"labels": 2, "labels.matched": 1, "labels.orphaned": 1},
        },
        [],
    ),
    "label past all that its prediction could be told": (
        [("p", "a", 0), ("l", "a", 301), ("step",), ("beat", 502)],
        {"predictions": 1, "expired": 1, "heartbeats": 2, "labels": 1, "labels.orphaned": 1},
        [],
    ),
    "label before its prediction by more than it is kept": (
        [("p", "a", 300), ("l", "a", 99)],
        {"predictions": 1, "pending": 1, "labels": 1, "labels.orphaned": 1},
        [],
    ),
    "a label waits with its corrections": (
        [("l", "a", 10, 1), ("l", "a", 30, 0, 1), ("l", "a", 20, 1), ("step",), ("p", "a", 0)],
        {
            **{"predictions": 1, "labelled": 1, "revised": 1},
            **{"labels": 3, "labels.matched": 2, "labels.revised": 1, "labels.duplicate": 1},
        },
        [],
    ),
    "withdrawn before its prediction came": (
        [("l", "a", 10, 1), ("tombstone", "a"), ("step",), ("p", "a", 0), ("step",), ("beat", 211)],
        {
            **{"predictions": 1, "expired": 1, "revised": 1, "withdrawn": 1, "heartbeats": 2},
            **{"labels": 2, "labels.matched": 2, "labels.revised": 1},
        },
        [],
    ),
    "a challenger of another type does not take the label": (
        [("p", "a", 0), ("p", "a", 0, {"model": "n"}), ("l", "a", 10, "1")],
        {"predictions": 2, "labelled": 1, "pending": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "a challenger that comes after the label does not take one that is late for it": (
        [("p", "a", 0), ("l", "a", 60, 1), ("step",), ("p", "a", 0, {"model": "n"})],
        {"predictions": 2, "labelled": 1, "pending": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "a challenger that came later takes what is in time for it": (
        [("p", "a", 0), ("p", "a", 5, {"model": "n"}), ("l", "a", 60, 1)],
        {"predictions": 2, "labelled": 1, "pending": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "a tombstone is for those that took the label": (
        [("p", "a", 0), ("p", "a", 0, {"model": "n"}), ("l", "a", 60, 1), ("tombstone", "a"), ("step",), ("beat", 150)],
        {
            **{"predictions": 2, "pending": 1, "expired": 1, "revised": 1, "withdrawn": 1, "heartbeats": 2},
            **{"labels": 2, "labels.matched": 2, "labels.revised": 1},
        },
        [],
    ),
    "a tombstone of what has expired meanwhile": (
        [
            ("p", "a", 0),
            ("l", "a", 10, 1),
            ("l", "a", 20, None, 1),
            ("step",),
            ("beat", 211),
            ("step",),
            ("tombstone", "a"),
        ],
        {
            **{"predictions": 1, "expired": 1, "revised": 1, "withdrawn": 1, "heartbeats": 2},
            **{"labels": 3, "labels.matched": 3, "labels.revised": 2},
        },
        [],
    ),
    "a challenger that has expired does not take the label of the champion": (
        [("p", "a", 0), ("p", "a", 0, {"model": "n"}), ("step",), ("beat", 70), ("step",), ("l", "a", 40, 1)],
        {"predictions": 2, "labelled": 1, "expired": 1, "heartbeats": 2, "labels": 1, "labels.matched": 1},
        [],
    ),
    "labels past their prediction are given up one by one": (
        [("p", "a", 0), ("l", "a", 301), ("l", "a", 350), ("step",), ("beat", 502)],
        {
            **{"predictions": 1, "expired": 1, "heartbeats": 2},
            **{"labels": 2, "labels.orphaned": 1, "labels.waiting": 1},
        },
        [],
    ),
    "each version has a delay of its own": (
        [("p", "a", 0), ("p", "a", 0, {"model": "n"}), ("step",), ("beat", 100)],
        {"predictions": 2, "pending": 1, "expired": 1, "heartbeats": 2},
        [],
    ),
    "prediction of a wrong type": (
        [("p", "a", 0, {"model": "n", "value": "high"}), ("p", "a", 0, {"value": "high"})],
        {"predictions": 1, "pending": 1, "predictions.dead": 1},
        ["prediction-type"],
    ),
    "the revision of tombstones is theirs": (
        [("p", "a", 0), ("l", "a", 10, 1, -(1 << 62)), ("l", "a", 10, 1, 1 - (1 << 62))],
        {"predictions": 1, "labelled": 1, "labels": 2, "labels.matched": 1, "labels.dead": 1},
        ["schema"],
    ),
    "late correction": (
        [("p", "a", 0), ("l", "a", 10, 1), ("l", "a", 211, 0, 1)],
        {"predictions": 1, "labelled": 1, "labels": 2, "labels.matched": 1, "labels.late": 1},
        ["late"],
    ),
    "lower revision": (
        [("p", "a", 0), ("l", "a", 10, 1, 2), ("l", "a", 20, 0, 1)],
        {"predictions": 1, "labelled": 1, "labels": 2, "labels.matched": 1, "labels.duplicate": 1},
        [],
    ),
    "withdrawn by null": (
        [("p", "a", 0), ("l", "a", 10, 1), ("l", "a", 20, None, 1)],
        {
            **{"predictions": 1, "pending": 1, "revised": 1, "withdrawn": 1},
            **{"labels": 2, "labels.matched": 2, "labels.revised": 1},
        },
        [],
    ),
    "withdrawn by tombstone, then expired": (
        [("p", "a", 0), ("l", "a", 10, 1), ("tombstone", "a"), ("step",), ("beat", 211)],
        {
            **{"predictions": 1, "expired": 1, "revised": 1, "withdrawn": 1, "heartbeats": 2},
            **{"labels": 2, "labels.matched": 2, "labels.revised": 1},
        },
        [],
    ),
    "labelled again after a tombstone, with any revision": (
        [("p", "a", 0), ("l", "a", 10, 1, 5), ("tombstone", "a"), ("l", "a", 150, 0, 0)],
        {
            **{"predictions": 1, "labelled": 1, "revised": 1, "withdrawn": 1},
            **{"labels": 3, "labels.matched": 3, "labels.revised": 2},
        },
        [],
    ),
    "tombstone of nothing": ([("tombstone", "a")], {"labels": 1, "labels.orphaned": 1}, []),
    "label of a wrong type": (
        [("p", "a", 0), ("l", "a", 10, "perhaps")],
        {"predictions": 1, "pending": 1, "labels": 1, "labels.dead": 1},
        ["label-type"],
    ),
    "prediction too old to be recognised again": (
        [("beat", 1_000), ("step",), ("p", "a", 0)],
        {"heartbeats": 2, "predictions.dead": 1},
        ["late"],
    ),
    "label too old for any prediction": (
        [("beat", 1_000), ("step",), ("l", "a", 0)],
        {"heartbeats": 2, "labels": 1, "labels.late": 1},
        ["late"],
    ),
    "future": (
        [("p", "a", NOW_MS + 1_001), ("l", "a", NOW_MS + 1_001)],
        {"predictions.dead": 1, "labels": 1, "labels.dead": 1},
        ["future", "future"],
    ),
    "just not the future": (
        [("p", "a", NOW_MS + 1_000), ("l", "a", NOW_MS + 1_000)],
        {"predictions": 1, "labelled": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
    "poison": (
        [
            ("raw", PREDICTIONS, b"{"),
            ("raw", PREDICTIONS, None),
            ("raw", GROUND_TRUTH, b"\xff"),
            ("raw", GROUND_TRUTH, None),
        ],
        {"predictions.dead": 2, "labels": 2, "labels.dead": 2},
        ["malformed-json", "empty", "malformed-json", "empty"],
    ),
    "unknown major": (
        [("raw", GROUND_TRUTH, b'{"prediction_id":"a","event_time_ms":1,"label":1,"schema_version":2}')],
        {"labels": 1, "labels.dead": 1},
        ["unknown-schema-version"],
    ),
    "additional field": (
        [("p", "a", 0), ("raw", GROUND_TRUTH, b'{"prediction_id":"a","event_time_ms":1,"label":1,"clerk":"x"}')],
        {"predictions": 1, "labelled": 1, "labels": 1, "labels.matched": 1},
        [],
    ),
}


@NAMES
@pytest.mark.parametrize("case", TABLE)
def test_outcome(name: str, case: str) -> None:
    steps, totals, reasons = TABLE[case]
    worker = Worker(View({("m", 1): PLAN, ("m", 2): PLAN, ("n", 1): SHORT}), LIMITS, joins=implementation(name))
    for step in steps:
        act(worker, step)
    worker.step()
    assert {key: n for key, n in worker.total.items() if n} == totals
    assert [letter.reason for letter in worker.dead] == reasons
    assert worker.rebuilt().digest() == worker.join.digest()


@NAMES
@pytest.mark.parametrize("topic", [PREDICTIONS, GROUND_TRUTH])
def test_what_is_refused_moves_no_watermark(name: str, topic: str) -> None:
    worker = Worker(View({("m", 1): PLAN}), LIMITS, joins=implementation(name))
    worker.beat(500)
    worker.send(topic, encode(Heartbeat(event_time_ms=NOW_MS + 1_001)), None, HEARTBEAT)
    worker.send(topic, b"{}", None, HEARTBEAT)
    worker.predict(prediction("a", NOW_MS + 1_001))
    worker.label("a", NOW_MS + 1_001)
    worker.step()
    assert worker.join.watermark_ms == 500
    assert len(worker.dead) == 4


@NAMES
def test_heartbeat_sets_the_watermark_without_grace_and_nothing_sets_it_back(name: str) -> None:
    worker = Worker(View({("m", 1): PLAN}), LIMITS, joins=implementation(name))
    worker.predict(prediction("a", 500))
    worker.label("a", 520)
    worker.step()
    assert worker.join.watermark_ms == 490
    worker.beat(500, [PREDICTIONS])
    worker.step()
    assert worker.join.watermark_ms == 500
    worker.beat(400)
    worker.step()
    assert worker.join.watermark_ms == 500


@NAMES
def test_idle_topics_hold_nothing_back(name: str) -> None:
    worker = Worker(View({("m", 1): PLAN}), LIMITS, joins=implementation(name))
    worker.predict(prediction("a", 500))
    worker.step()
    assert worker.sums[-1] == (-1, False)
    worker.step(idle={GROUND_TRUTH: True})
    assert worker.sums[-1] == (490, False)
    worker.label("b", 700)
    worker.step(idle={PREDICTIONS: True, GROUND_TRUTH: True})
    assert worker.sums[-1] == (690, True)
    worker.predict(prediction("c", 600))
    worker.step(idle={GROUND_TRUTH: True})
    assert worker.sums[-1] == (690, False)


@NAMES
def test_dead_letter_of_a_label_that_waited_is_the_record_as_it_came(name: str) -> None:
    worker = Worker(View({("m", 1): PLAN}), LIMITS, joins=implementation(name))
    value = b'{ "prediction_id":"a", "event_time_ms":150, "label":1 }'
    worker.send(GROUND_TRUTH, value, b"a", [("trace", b"1")])
    record = worker.log[GROUND_TRUTH][0]
    worker.step()
    worker.predict(prediction("a", 0))
    worker.step()
    (letter,) = worker.dead
    assert letter.record._replace(headers=list(letter.record.headers or ())) == record


@NAMES
def test_a_correction_is_told_as_a_difference_at_its_own_time(name: str) -> None:
    worker = Worker(View({("m", 1): PLAN}), LIMITS, joins=implementation(name))
    worker.predict(prediction("a", 10))
    worker.label("a", 20, 1)
    worker.label("a", 130, 0, 1)
    worker.step()
    labelled = PLAN.slots["labelled"].start
    positives = PLAN.slots["positives"]
    by_effect = {
        (pane, effect): n for (_, _, s, pane, effect, at), n in worker.deltas.items() if s == "" and at == labelled
    }
    assert by_effect == {(0, 0): 1}, "the correction takes one label and gives one: nothing is left"
    hits = {
        effect: n
        for (_, _, s, _, effect, at), n in worker.deltas.items()
        if s == "" and positives.start <= at < positives.stop
    }
    assert hits == {0: 1, 100: -1}
