"""The benchmark's traffic: a day in the order of event time, one model's labels turned round."""

from __future__ import annotations

from benchmarks.alert_latency import DAY_MS, _Probing, _rows
from schemas.codec import decode
from schemas.events import GroundTruth, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS


def test_a_day_is_in_order_and_ends_before_the_next() -> None:
    probing = _Probing(["a", "b"], 150, 60_000)
    records = probing._day(1)
    assert len(records) == 2 * 2 * 150
    predictions = {key: decode(value, Prediction) for topic, key, value in records if topic == PREDICTIONS}
    labels = {key: decode(value, GroundTruth) for topic, key, value in records if topic == GROUND_TRUTH}
    assert predictions.keys() == labels.keys()
    times = [(predictions if topic == PREDICTIONS else labels)[key].event_time_ms for topic, key, _ in records]
    assert times == sorted(times)
    first = probing.start_ms + DAY_MS
    assert first + 60_000 < times[0]
    assert times[-1] < first + DAY_MS
    for at, model in enumerate("ab"):
        truths = _rows(150, 1_000 + at)[3]
        told = [labels[f"{model}-1-{row}".encode()].label for row in range(150)]
        assert told == [truth if model == "a" else 1 - truth for truth in truths]
