"""Counting columns is counting row by row."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.reference import NumericReference
from schemas.specification import parse
from streams.native.library import available
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.traffic import traffic_counters
from tests.support.plans import plan, prediction, reference, specification

NUMBERS = st.one_of(
    st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-500, 900), st.just("text"), st.booleans()
)
TEXTS = st.one_of(st.none(), st.sampled_from(["JFK", "LGA", "EWR", ""]), st.just(float("nan")), st.integers(0, 2))
SCORES = st.one_of(st.none(), st.floats(0.0, 1.0))
ROWS = st.lists(st.tuples(NUMBERS, TEXTS, SCORES, st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=20)


DRIFTED = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[metrics]
primary = "accuracy"
[features]
"""


def _by_row(of: PanePlan, rows: list[tuple[object, ...]]) -> np.ndarray:
    total = np.zeros((2, of.size), np.int64)
    for distance, origin, score, guess, group in rows:
        given_ = prediction(value=guess, probability=score, distance=distance, origin=origin)  # type: ignore[arg-type]
        for position, count in of.traffic(given_).items():
            total[group, position] += count  # type: ignore[index]
    return total


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.floats(), min_size=1, max_size=30),
    edges=st.lists(st.floats(-1e6, 1e6), max_size=40, unique=True).map(sorted),
)
def test_the_native_core_counts_the_same(numbers: list[float], edges: list[float]) -> None:
    if not available():
        pytest.skip("the native core was not built")
    given_ = reference()
    feature = given_.features["distance"]
    assert isinstance(feature, NumericReference)
    feature = msgspec.structs.replace(feature, edges=edges, counts=[1] * (len(edges) + 1))
    of = PanePlan(specification(), msgspec.structs.replace(given_, features={"distance": feature}))
    column = np.array([*numbers, *edges])
    rows = [(float(x), None, None, 1, 0) for x in column]
    counted = traffic_counters(of, {"distance": column}, predictions=np.ones(len(column), int))
    np.testing.assert_array_equal(counted[0], _by_row(of, rows)[0])


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_columns_count_as_rows_do(rows: list[tuple[object, ...]]) -> None:
    of = plan("binary")
    distance, origin, score, guess, group = (list(column) for column in zip(*rows, strict=True))
    counted = traffic_counters(
        of,
        {"distance": np.array(distance, dtype=object), "origin": np.array(origin, dtype=object)},
        predictions=np.array(guess),
        scores=np.array([np.nan if one is None else one for one in score]),
        groups=np.array(group),
        group_count=2,
    )
    np.testing.assert_array_equal(counted, _by_row(of, rows))


@pytest.mark.parametrize("core", [True, False])
def test_good_numbers_take_the_short_way_to_the_same_counts(monkeypatch: pytest.MonkeyPatch, core: bool) -> None:
    monkeypatch.setattr("streams.traffic.native.available", lambda: core and available())
    of = plan("binary")
    numbers = np.random.default_rng(0).normal(200.0, 200.0, 500)
    numbers[:6] = [1e12, -1e300, 100.0, 300.0, 0.0, 400.0]  # beyond the clip, at edges, at the ends of the range
    rows = [(float(x), "JFK", 0.5, 1, 0) for x in numbers]
    counted = traffic_counters(
        of,
        {"distance": numbers, "origin": np.array(["JFK"] * 500)},
        predictions=np.ones(500, int),
        scores=np.full(500, 0.5),
    )
    np.testing.assert_array_equal(counted[0], _by_row(of, rows)[0])


def test_columns_side_by_side_count_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many rows that the native core takes several threads, some of them missing or no numbers."""
    if not available():
        pytest.skip("the native core was not built")
    names = [f"f{number}" for number in range(5)]
    spec = parse(DRIFTED + "".join(f'{name} = "numeric"\n' for name in names))
    rng = np.random.default_rng(0)
    before = {name: rng.normal(size=2_000) for name in names}
    labels = np.arange(2_000) % 2
    given_ = {"labels": labels, "predictions": labels, "scores": labels * 0.5, "event_time_ms": np.arange(2_000)}
    of = PanePlan(spec, compile_reference(spec, before, **given_))
    after = {name: rng.normal(0.3, 2.0, 200_003) for name in names}
    after["f1"][rng.integers(0, 200_003, 5_000)] = np.nan
    after["f2"][rng.integers(0, 200_003, 50)] = [np.inf, -np.inf] * 25
    after["f3"] = after["f3"].astype(np.float32)
    after["f4"] = np.repeat(after["f4"], 2)[::2]
    natively = traffic_counters(of, after)
    monkeypatch.setattr("streams.traffic.native.available", lambda: False)
    np.testing.assert_array_equal(natively, traffic_counters(of, after))


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    of = plan("binary")
    columns = {"distance": np.arange(100.0) * 5, "origin": np.array(["JFK", "XXX"] * 50)}
    given_ = {"predictions": np.arange(100) % 2, "scores": np.linspace(0, 1, 100), "groups": np.arange(100) % 3}
    whole = traffic_counters(of, columns, group_count=3, **given_)
    monkeypatch.setattr("streams.traffic._BLOCK", 7)
    np.testing.assert_array_equal(traffic_counters(of, columns, group_count=3, **given_), whole)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        traffic_counters(plan(), {"distance": np.zeros(3), "origin": np.zeros(2)})
