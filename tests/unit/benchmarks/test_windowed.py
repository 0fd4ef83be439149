"""What the Python peers count with, and what the join benchmark's traffic must come to."""

from __future__ import annotations

import json

import pytest

from benchmarks import outcome, traffic
from benchmarks.harness import UnequalError
from benchmarks.peers.programs.windowed import WindowedCounts
from schemas.codec import decode_ground_truth, decode_prediction


@pytest.mark.parametrize(
    ("score", "label", "cell"), [(0.4999, 0, "tn"), (0.5, 0, "fp"), (0.2, 1, "fn"), (1.0, 1, "tp")]
)
def test_a_pair_is_counted_once_in_its_window(score: float, label: int, cell: str) -> None:
    counts = WindowedCounts()
    counts.add(3, 1_200_001, score, label)
    [document] = map(json.loads, counts.take_changed())
    assert (document["partition"], document["window_start_ms"]) == (3, 1_200_000)
    assert {name: document[name] for name in ("tn", "fp", "fn", "tp") if document[name]} == {cell: 1}
    assert sum(document["positives" if label else "negatives"]) == 1
    assert counts.take_changed() == []


def test_the_expected_counts_are_those_of_the_records() -> None:
    counts = dict.fromkeys(("tn", "fp", "fn", "tp"), 0)
    labels = {key: decode_ground_truth(value).label for key, value in traffic.labels(500)}
    for key, value in traffic.predictions(500):
        prediction = decode_prediction(value)
        assert isinstance(prediction.probability, float)
        decided, truth = prediction.probability >= 0.5, labels[key] == 1
        counts[("tp" if decided else "fn") if truth else ("fp" if decided else "tn")] += 1
    assert outcome.expected(500) == {"pairs": 500, **counts}


def test_one_pair_too_few_is_unequal() -> None:
    outcome.check("driftline", outcome.expected(1_000), 1_000)
    with pytest.raises(UnequalError, match="peer found"):
        outcome.check("peer", outcome.expected(1_000) | {"pairs": 999}, 1_000)
