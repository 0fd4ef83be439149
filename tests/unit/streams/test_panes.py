from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Prediction
from streams.panes import Compact, PanePlan, add_to, class_key, negated
from tests.support.plans import plan, prediction, reference, specification

TASKS = ["binary", "multiclass", "regression"]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (1, "1"),
        (1.0, "1"),
        (True, "1"),
        (False, "0"),
        (0.5, "0.5"),
        ("UA", "UA"),
        (None, ""),
        (-3.0, "-3"),
        (1e300, "1e+300"),
    ],
)
def test_class_keys_do_not_depend_on_how_a_number_is_written(value: object, key: str) -> None:
    assert class_key(value) == key  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_layout_is_disjoint_complete_and_deterministic(task: str) -> None:
    first, second = plan(task), plan(task)
    assert first.layout == second.layout
    positions = [p for where in first.slots.values() for p in range(where.start, where.stop)]
    assert positions == list(range(first.size))


def test_layout_follows_the_reference() -> None:
    other = msgspec.structs.replace(reference(), features={})
    assert PanePlan(specification(), other).layout != plan().layout


@pytest.mark.parametrize(
    ("features", "given_segment", "expected"),
    [
        ({"origin": "JFK"}, None, ("", "origin=JFK")),
        ({"origin": None}, None, ("",)),
        ({"origin": "JFK"}, {"origin": "EWR"}, ("", "origin=EWR")),
        ({"origin": 7.0}, None, ("", "origin=7")),
        ({"origin": "x" * 500}, None, ("", "origin=" + "x" * 128)),
    ],
)
def test_segments(features: dict[str, object], given_segment: dict[str, str] | None, expected: tuple[str, ...]) -> None:
    p = msgspec.structs.replace(prediction(**features), segment=given_segment)
    assert plan().segments(p) == expected


@pytest.mark.parametrize(
    ("value", "probability", "expected"),
    [
        (1, 0.7, (1, 0.7)),
        (True, 0.7, (1, 0.7)),
        (0, 0.2, (0, 0.2)),
        ("1", {"0": 0.1, "1": 0.9}, (1, 0.9)),
        (1, None, (1, None)),
        (0.65, None, (1, 0.65)),  # the probability sent as the prediction
        (0.35, None, (0, 0.35)),
        ("maybe", None, (2, None)),
    ],
)
def test_compact_of_binary(value: object, probability: object, expected: tuple[int, float | None]) -> None:
    c = plan().compact(prediction(value=value, probability=probability))  # type: ignore[arg-type]
    assert (c.predicted, c.score) == expected


def test_compact_of_multiclass_keeps_probabilities() -> None:
    c = plan("multiclass").compact(prediction(value="b", probability={"a": 0.2, "b": 0.5, "c": 0.3}))  # type: ignore[arg-type]
    assert c == Compact(1, 0.5, ("", "origin=JFK"), (0.2, 0.5, 0.3))


def test_compact_round_trips_small() -> None:
    c = plan().compact(prediction())
    data = msgspec.msgpack.encode(c)
    assert msgspec.msgpack.decode(data, type=Compact) == c
    assert len(data) < 40


@pytest.mark.parametrize(
    ("value", "slot"),
    [
        (None, "missing"),
        (math.nan, "missing"),
        (math.inf, "invalid"),
        ("far", "invalid"),
        (10**400, "invalid"),
        (10**30, "high"),
        (-5.0, "low"),
        (1e9, "high"),
    ],
)
def test_odd_numbers_are_counted(value: object, slot: str) -> None:
    p = plan()
    counted = p.traffic(prediction(distance=value))
    assert counted[getattr(p.features["distance"], slot)] == 1


def test_unseen_category_counts_as_other_and_missing_apart() -> None:
    p = plan()
    where = p.features["origin"]
    assert p.traffic(prediction(origin="SFO"))[where.bins.stop - 1] == 1
    assert p.traffic(prediction(origin=None))[where.missing] == 1


def test_features_are_counted_overall_only() -> None:
    p = plan()
    first_feature = min(where.bins.start for where in p.features.values())
    assert max(p.traffic(prediction(), "origin=JFK")) < first_feature
    assert max(p.traffic(prediction())) >= first_feature


@pytest.mark.parametrize(
    ("task", "label", "accepted"),
    [
        ("binary", 1, True),
        ("binary", 0.0, True),
        ("binary", True, True),
        ("binary", 2, False),
        ("binary", "late", False),
        ("multiclass", "zebra", True),
        ("multiclass", math.nan, False),
        ("regression", 3.5, True),
        ("regression", "3.5", False),
        ("regression", True, False),
        ("regression", math.inf, False),
        ("regression", 10**400, False),
        ("multiclass", 10**400, False),
    ],
)
def test_accepts(task: str, label: object, accepted: bool) -> None:
    assert plan(task).accepts(label) is accepted  # type: ignore[arg-type]


def test_accepts_prediction_by_task() -> None:
    text = prediction(value="yes")
    assert plan("binary").accepts_prediction(text)
    assert not plan("regression").accepts_prediction(text)
    for task in TASKS:
        endless = prediction(value=10**400, probability=None, origin=10**400)
        assert not plan(task).accepts_prediction(endless)
        assert plan(task).segments(endless) == ("", "origin=inf")
        assert plan(task).traffic(endless)


_LABELS = {
    "binary": st.sampled_from([0, 1]),
    "multiclass": st.sampled_from(["a", "b", "c", "unseen"]),
    "regression": st.floats(allow_nan=False, allow_infinity=False),
}


@given(data=st.data(), task=st.sampled_from(TASKS))
def test_taking_a_label_back_restores_the_state(data: st.DataObject, task: str) -> None:
    p = plan(task)
    total: dict[int, int] = {}
    labels = data.draw(st.lists(_LABELS[task], min_size=2, max_size=8))
    score = st.floats(0, 1)
    compacts = [
        p.compact(prediction(value=data.draw(score) if task == "regression" else "b", probability=data.draw(score)))
        for _ in labels
    ]
    for c, label in list(zip(compacts, labels, strict=True))[1:]:
        add_to(total, p.labelled(c, label, 5_000))
    before = dict(total)
    contribution = p.labelled(compacts[0], labels[0], 7_000)
    add_to(total, contribution)
    add_to(total, negated(contribution))
    assert total == before


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=False, allow_infinity=False))
def test_contributions_are_small_integers_for_any_number(value: float, label: float) -> None:
    p = plan("regression")
    sent = prediction(value=1.0, distance=value)
    for counted in (p.traffic(sent), p.labelled(p.compact(sent), label, -1)):
        assert all(isinstance(count, int) and 0 <= position < p.size for position, count in counted.items())
        assert all(abs(count) <= 2**33 for count in counted.values())  # 1e9 events stay below 2^63


def test_binary_label_without_score_counts_no_score() -> None:
    p = plan()
    c = p.compact(prediction(value=1, probability=None))
    counted = p.labelled(c, 1, 0)
    assert p.slots["scored"].start not in counted
    assert counted[p.slots["confusion"].start + 1 * 3 + 1] == 1


def test_prediction_type_is_the_wire_struct() -> None:
    assert isinstance(prediction(), Prediction)
