from __future__ import annotations

import msgspec
import numpy as np
import pytest

from schemas.errors import SpecificationError
from schemas.reference import CategoricalReference, NumericReference, ReferenceStatistics
from streams.drift.scatter import drift_key
from streams.panes import PanePlan
from streams.reference import compile_reference
from tests.support.calls import calls_of
from tests.support.plans import prediction, specification

DAY = 86_400_000


def _table(n: int = 20_000, *, seed: int = 1, days: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.2, n)
    scores = 1 / (1 + np.exp(-logit))
    return {
        "distance": rng.gamma(2.0, 300.0, n),
        "origin": rng.choice(np.array(["EWR", "JFK", "LGA"], dtype=object), n, p=[0.5, 0.3, 0.2]),
        "score": scores,
        "label": (rng.random(n) < scores).astype(int),
        "time": np.sort(rng.integers(0, days * DAY, n)),
    }


def _compile(t: dict[str, np.ndarray], **over: object) -> ReferenceStatistics:
    given: dict[str, object] = {
        "labels": t["label"],
        "predictions": (t["score"] >= 0.5).astype(int),
        "scores": t["score"],
        "event_time_ms": t["time"],
    }
    features = {"distance": t["distance"], "origin": t["origin"]}
    return compile_reference(specification(), features, **(given | over))  # type: ignore[arg-type]


def test_counts_agree_with_what_the_plan_counts_live() -> None:
    t = _table(2_000)
    t["distance"][5] = np.nan
    t["origin"][7] = None
    reference = _compile(t)
    plan = PanePlan(specification(), reference)
    total = np.zeros(plan.size, dtype=np.int64)
    for distance, origin in zip(t["distance"].tolist(), t["origin"].tolist(), strict=True):
        for position, count in plan.traffic(prediction(distance=distance, origin=origin)).items():
            total[position] += count
    numbers, categories = reference.features["distance"], reference.features["origin"]
    assert isinstance(numbers, NumericReference)
    assert isinstance(categories, CategoricalReference)
    where = plan.features["distance"]
    assert total[where.bins].tolist() == numbers.counts
    assert (total[where.missing], total[where.low], total[where.high]) == (1, 0, 0) == (numbers.missing, 0, 0)
    where = plan.features["origin"]
    assert total[where.bins].tolist() == [*categories.counts, 0]
    assert total[where.missing] == categories.missing == 1


def test_round_trips_and_is_deterministic() -> None:
    t = _table(3_000)
    first, second = msgspec.json.encode(_compile(t)), msgspec.json.encode(_compile(t))
    assert first == second
    assert msgspec.json.encode(msgspec.json.decode(first, type=ReferenceStatistics)) == first


def test_levels_come_from_heldout_rows() -> None:
    t = _table()
    held = np.arange(len(t["label"])) >= 10_000
    t["score"][:10_000] = t["label"][:10_000]  # perfect on rows it was fitted on
    honest, flattered = _compile(t, heldout=held), _compile(t)
    assert honest.metrics["roc_auc"].value < 0.85 < flattered.metrics["roc_auc"].value
    assert honest.metrics["roc_auc"].n == 10_000


def test_scale_predicts_the_scatter_of_panes() -> None:
    level = _compile(_table(40_000)).metrics["accuracy"]
    assert level.scale == pytest.approx(np.sqrt(level.value * (1 - level.value)), rel=0.25)
    assert level.panes == 40
    assert level.spread < 0.01  # stationary rows: chance explains nearly all


def test_spread_between_panes_is_found() -> None:
    t = _table(40_000)
    bad_day = (t["time"] // DAY) % 4 == 0
    t["label"] = np.where(bad_day, 1 - t["label"], t["label"])
    assert _compile(t).metrics["accuracy"].spread > 0.1


def test_segments_have_their_own_levels() -> None:
    t = _table()
    t["label"] = np.where(t["origin"] == "EWR", 1 - t["label"], t["label"])
    reference = _compile(t)
    assert sum(reference.segments.values()) == 20_000
    levels = reference.segment_metrics
    assert levels["origin=EWR"]["accuracy"].value < 0.4 < 0.6 < levels["origin=JFK"]["accuracy"].value


def test_own_windows_show_seasonal_features() -> None:
    t = _table(40_000)
    season = t["distance"] + 400.0 * np.sin(2 * np.pi * t["time"] / (20 * DAY))
    calm, moving = _compile(t).drift, _compile(t | {"distance": season}).drift
    key = drift_key("feature:distance", "1d", "excess")
    assert calm[key] < 0.01 < 0.1 < moving[key]
    assert {"feature:distance@7d:excess", "prediction@1d:excess", "label@1d:dof"} <= set(calm)


def test_odd_columns() -> None:
    t = _table(500)
    reference = compile_reference(
        specification(),
        {"distance": np.full(500, None, dtype=object), "origin": np.full(500, np.nan)},
        labels=np.array([None, *t["label"][1:].tolist()], dtype=object),
        predictions=np.ones(500),
        scores=None,
        event_time_ms=t["time"],
    )
    assert isinstance(reference.features["distance"], NumericReference)
    assert reference.features["distance"].missing == 500
    assert reference.features["origin"].missing == 500
    assert reference.segments == {}
    assert PanePlan(specification(), reference).traffic(prediction())


def test_refuses_what_it_cannot_use() -> None:
    t = _table(100)
    with pytest.raises(ValueError, match="no row has a label"):
        _compile(t, labels=np.full(100, None, dtype=object))
    with pytest.raises(ValueError, match="labels has 99 rows"):
        _compile(t, labels=t["label"][1:])


def test_is_quick_enough_for_registration() -> None:
    """A row costs some forty calls, most of them of its values' own types: two seconds for 300,000 rows."""
    tables = [_table(rows, days=365) for rows in (10_000, 40_000)]
    few, many = (calls_of(lambda t=t: _compile(t)) for t in tables)  # type: ignore[misc]
    assert many < 60 * 40_000
    assert many < 4.4 * few


def test_levels_hold_what_is_watched_with_an_argument() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    times = np.sort(rng.integers(0, 40 * DAY, n))
    probabilities = rng.dirichlet([2, 1, 1], n)
    names = np.array(["a", "b", "c"], dtype=object)
    truth = names[[rng.choice(3, p=row) for row in probabilities]]
    guess = names[probabilities.argmax(axis=1)]
    spec = specification("multiclass", watch=("recall[b]", "top_2_accuracy", "label_delay_p50_s"))
    levels = compile_reference(
        spec,
        {},
        labels=truth,
        predictions=guess,
        scores=probabilities.max(axis=1),
        probabilities=probabilities,
        classes=["a", "b", "c"],
        event_time_ms=times,
    ).metrics
    assert levels["recall[b]"].value == pytest.approx(float(np.mean(guess[truth == "b"] == "b")))
    assert levels["top_2_accuracy"].value > levels["accuracy"].value
    assert levels["recall[b]"].spread > 0
    assert levels["recall[b]"].scale > 0
    assert "label_delay_p50_s" not in levels


def test_a_watched_class_that_the_model_does_not_know_is_refused() -> None:
    spec = specification("multiclass", watch=("recall[b]", "recall[B]"))
    with pytest.raises(SpecificationError, match=r"recall\[B\]") as caught:
        compile_reference(
            spec,
            {},
            labels=np.array(["a", "b"], dtype=object),
            predictions=np.array(["a", "b"], dtype=object),
            scores=None,
            event_time_ms=np.arange(2),
        )
    assert "a, b" in caught.value.remedy
