"""Any batching and any interleaving that keeps the order within each topic gives the same result."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import GroundTruth, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join.batch import JoinLimits
from tests.support.joins import View, Worker
from tests.support.plans import plan, prediction
from tests.unit.streams.join.reference import expected

PLANS = {
    ("m", 1): plan(windows=("50ms",), delay="100ms", horizon="200ms"),
    ("m", 2): plan(windows=("50ms",), delay="150ms", horizon="60ms"),
    ("n", 1): plan("regression", windows=("30ms",), delay="100ms", horizon="200ms"),
}
GRACE_MS = 40
END_MS = 10_000

_ids = st.sampled_from(["a", "b", "c", "d", "e"])


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Prediction], list[GroundTruth | str]]:
    """Both topics in log order: by event time, with disorder within the grace."""
    born = {key: draw(st.integers(0, 700)) for key in "abcde"}
    predictions: list[tuple[int, Prediction]] = []
    for key in draw(st.lists(_ids, max_size=12)):
        model, version = draw(st.sampled_from([("m", 1), ("m", 1), ("m", 2), ("n", 1), ("x", 1)]))
        at = born[key] + draw(st.sampled_from([0, 0, 0, 7, 30]))
        p = prediction(key, at, value=draw(st.sampled_from([0, 1])), origin=draw(st.sampled_from(["JFK", None])))
        p = msgspec.structs.replace(p, model=model, version=version)
        predictions.append((at + draw(st.integers(0, GRACE_MS)), p))
    truths: list[tuple[int, GroundTruth | str]] = []
    for key in draw(st.lists(_ids, max_size=14)):
        at = max(
            0,
            born[key]
            + draw(st.sampled_from([-400, -201, -200, -20, 0, 20, 99, 100, 101, 150, 250, 300, 301, 302, 400])),
        )
        label: Any = draw(st.sampled_from([0, 1, 0.0, None, "wrong"]))
        truth = GroundTruth(
            prediction_id=key, event_time_ms=at, label=label, revision=draw(st.sampled_from([0, 0, 1, -1]))
        )
        arrives = at + draw(st.integers(0, GRACE_MS))
        truths.append((arrives, truth))
        # A tombstone has no event time: it follows a label that is within every prediction's reach.
        if born[key] - 100 <= at <= born[key] + 200 and draw(st.integers(0, 5)) == 0:
            truths.append((arrives, key))
    predictions.sort(key=lambda item: item[0])
    truths.sort(key=lambda item: item[0])
    return [p for _, p in predictions], [truth for _, truth in truths]


def run(predictions: list[Prediction], truths: list[GroundTruth | str], takes: list[tuple[int, int, int]]) -> Worker:
    worker = Worker(View(PLANS), JoinLimits(grace_ms=GRACE_MS))
    for p in predictions:
        worker.predict(p)
    for truth in truths:
        if isinstance(truth, str):
            worker.tombstone(truth)
        else:
            worker.label(truth.prediction_id, truth.event_time_ms, truth.label, truth.revision)
    for of_predictions, of_truths, aborts in takes:
        worker.step({PREDICTIONS: of_predictions, GROUND_TRUTH: of_truths}, aborts=aborts)
    worker.step()
    return worker


takes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(traffic(), takes, takes)
def test_same_result(
    records: tuple[list[Prediction], list[GroundTruth | str]],
    one: list[tuple[int, int, int]],
    other: list[tuple[int, int, int]],
) -> None:
    predictions, truths = records
    workers = [run(predictions, truths, one), run(predictions, truths, other), run(predictions, truths, [])]
    # Before event time has passed everything: what is still open is open everywhere.
    assert workers[0].total == workers[1].total == workers[2].total
    assert len({worker.join.watermark_ms for worker in workers}) == 1
    assert workers[0].merged == workers[1].merged == workers[2].merged

    deltas, total = expected(PLANS, predictions, truths)
    for worker in workers:
        worker.beat(END_MS)
        worker.step()
        assert worker.merged == deltas
        assert {name: n for name, n in worker.total.items() if n and name != "heartbeats"} == dict(total)
        assert len(worker.join) == 0


@settings(max_examples=100, deadline=None)
@given(traffic(), takes)
def test_watermark_never_goes_back(
    records: tuple[list[Prediction], list[GroundTruth | str]], batches: list[tuple[int, int, int]]
) -> None:
    worker = run(*records, batches)
    watermarks = [watermark for watermark, _ in worker.sums]
    assert watermarks == sorted(watermarks)
