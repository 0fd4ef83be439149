"""The plain join that the demo's proof uses, case by case."""

from __future__ import annotations

import pytest

from agents.demo.accounting import compare, expected
from schemas.events import GroundTruth, Prediction

DAY = 86_400_000


def prediction(prediction_id: str = "a", *, at: int = 0, version: int = 1, value: int = 1) -> Prediction:
    return Prediction(
        prediction_id=prediction_id, model="m", version=version, event_time_ms=at, features={}, prediction=value
    )


def truth(prediction_id: str = "a", *, at: int = DAY, label: int | None = 1, revision: int = 0) -> GroundTruth:
    return GroundTruth(prediction_id=prediction_id, event_time_ms=at, label=label, revision=revision)


@pytest.mark.parametrize(
    ("predictions", "truths", "states", "labels", "revised"),
    [
        ([prediction()], [], {"pending": 1}, {}, 0),
        ([prediction()], [truth()], {"labelled": 1}, {"matched": 1}, 0),
        ([prediction(at=-5 * DAY)], [], {"expired": 1}, {}, 0),
        ([prediction()], [truth(at=4 * DAY)], {"pending": 1}, {"late": 1}, 0),
        ([prediction()], [truth("b")], {"pending": 1}, {"waiting": 1}, 0),
        ([prediction()], [truth("b", at=-8 * DAY)], {"pending": 1}, {"orphaned": 1}, 0),
        ([prediction()], [truth(), truth()], {"labelled": 1}, {"matched": 1, "duplicate": 1}, 0),
        ([prediction()], [truth(), truth(label=0, revision=1)], {"labelled": 1}, {"matched": 2}, 1),
        ([prediction()], [truth(revision=2), truth(label=0)], {"labelled": 1}, {"matched": 1, "duplicate": 1}, 0),
        ([prediction()], [truth(), truth(label=0, at=9 * DAY)], {"labelled": 1}, {"matched": 1, "late": 1}, 0),
        ([prediction(), prediction(version=2)], [truth()], {"labelled": 2}, {"matched": 1}, 0),
    ],
)
def test_every_id_is_in_one_place(
    predictions: list[Prediction],
    truths: list[GroundTruth],
    states: dict[str, int],
    labels: dict[str, int],
    revised: int,
) -> None:
    result = expected(predictions, truths, watermark_ms=0, max_label_delay_ms=3 * DAY, revision_horizon_ms=7 * DAY)
    assert {state: result.count(state) for state in set(result.state.values())} == states
    assert dict(result.labels) == labels
    assert result.revised == revised


def test_repeats_and_conflicts_are_told_apart() -> None:
    result = expected(
        [prediction(), prediction(), prediction(value=0)],
        [],
        watermark_ms=0,
        max_label_delay_ms=DAY,
        revision_horizon_ms=DAY,
    )
    assert (result.duplicates, result.conflicts, len(result.state)) == (1, 1, 1)


def test_a_difference_is_named() -> None:
    result = expected([prediction()], [], watermark_ms=0, max_label_delay_ms=DAY, revision_horizon_ms=DAY)
    assert compare(result, {"predictions": 1, "pending": 1}) == []
    [difference] = compare(result, {"predictions": 1, "pending": 0})
    assert "pending" in difference
