"""Traffic made by the column says what traffic made one by one would."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bulk import Bulk, permuted
from benchmarks.traffic import CARRIERS
from schemas.codec import decode_ground_truth, decode_prediction, encode


def test_predictions_are_what_the_codec_would_write() -> None:
    bulk = Bulk(5_000, model="m", seed=7)
    ids = np.arange(4_000, 4_050, dtype=np.uint64)
    columns = bulk.columns(ids)
    for at, (key, value) in enumerate(zip(*bulk.predictions(4_000, 4_050), strict=True)):
        prediction = decode_prediction(value)
        # As wide as the codec's own, but for zeros at the end of a fraction.
        assert 0 <= len(value) - len(encode(prediction)) <= 4 * 4
        assert prediction.prediction_id == key.decode() == f"p07{4_000 + at:09d}"
        assert (prediction.model, prediction.version) == ("m", 1)
        assert prediction.event_time_ms == bulk.times(ids)[at]
        assert prediction.probability == columns.score[at] / 10_000
        assert prediction.prediction == int(columns.score[at] >= 5_000)
        carrier = CARRIERS[columns.carrier[at]]
        assert prediction.segment == {"carrier": carrier}
        assert prediction.features == {
            **{name: columns.features[at, n] / 1_000 for n, name in enumerate("xyz")},
            "carrier": carrier,
        }


def test_labels_are_those_of_the_ids_in_any_order() -> None:
    bulk = Bulk(5_000, delay_ms=1_234)
    ids = np.array([4_999, 0, 17], dtype=np.uint64)
    for number, key, value in zip(ids.tolist(), *bulk.labels(ids), strict=True):
        label = decode_ground_truth(value)
        assert value == encode(label)
        assert label.prediction_id == key.decode() == f"p01{number:09d}"
        one = np.array([number], dtype=np.uint64)
        assert label.event_time_ms == bulk.times(one)[0] + 1_234
        assert label.label == int(bulk.columns(one).truth[0])


def test_scores_are_calibrated_and_features_spread() -> None:
    columns = Bulk(50_000).columns(np.arange(50_000, dtype=np.uint64))
    for low in range(0, 8_000, 2_000):
        inside = (columns.score >= low) & (columns.score < low + 2_000)
        assert columns.truth[inside].mean() == pytest.approx(columns.score[inside].mean() / 10_000, abs=0.02)
    assert columns.features.mean(axis=0) == pytest.approx([5_000] * 3, abs=50)
    assert abs(np.corrcoef(columns.features.T)[0, 1]) < 0.03
    assert sum(Bulk(50_000).by_carrier(chunk=7_000).values()) == 50_000


@pytest.mark.parametrize("size", [1, 2, 3, 1_000, 4_097, 25_000])
def test_a_permutation_hits_everything_once(size: int) -> None:
    found = permuted(np.arange(size, dtype=np.uint64), size, seed=3)
    assert sorted(found.tolist()) == list(range(size))


def test_a_permutation_looks_random() -> None:
    found = permuted(np.arange(10_000, dtype=np.uint64), 10_000_000).astype(float)
    assert abs(np.corrcoef(found, np.arange(10_000))[0, 1]) < 0.05
    assert found.mean() == pytest.approx(5_000_000, rel=0.03)


def test_too_many_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Bulk(10**9 + 1)
