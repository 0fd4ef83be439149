"""The constants of docs/reference/capacity.md that need no broker are those of the code."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import models
from benchmarks.bulk import Bulk
from benchmarks.installation import SPECIFICATION
from benchmarks.traffic import CARRIERS, START_MS
from schemas.codec import decode_ground_truth, decode_prediction
from schemas.specification import parse
from streams.packed import pack_counters
from streams.panes import PanePlan
from streams.reference import compile_reference

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "capacity.md"
DAY_MS = 86_400_000
NAMES = tuple("xyz")


@cache
def _plan(copies: int) -> PanePlan:
    """The benchmarks' model with each numeric feature so many times."""
    rows = 5_000
    columns = Bulk(rows, seed=99).columns(np.arange(rows, dtype=np.uint64))
    features = {
        f"{name}{copy or ''}": columns.features[:, number] / 1_000
        for copy in range(copies)
        for number, name in enumerate(NAMES)
    }
    listed = "\n".join(f'{name} = "numeric"' for name in features)
    text = SPECIFICATION.replace("NAME", "bench").replace('x = "numeric"\ny = "numeric"\nz = "numeric"', listed)
    scores = columns.score / 10_000
    reference = compile_reference(
        parse(text),
        {**features, "carrier": np.array(CARRIERS, dtype=object)[columns.carrier]},
        labels=columns.truth.astype(int),
        predictions=(scores >= 0.5).astype(int),
        scores=scores,
        event_time_ms=START_MS - 14 * DAY_MS + np.arange(rows) * (14 * DAY_MS // rows),
        heldout=np.ones(rows, dtype=bool),
    )
    return PanePlan(parse(text), reference)


def _pane_bytes(plan: PanePlan, events: int) -> int:
    """Packed size of one overall pane that holds so many labelled predictions."""
    bulk = Bulk(events)
    sums: Counter[int] = Counter()
    ids = np.arange(events, dtype=np.uint64)
    for value, label in zip(bulk.predictions(0, events)[1], bulk.labels(ids)[1], strict=True):
        prediction = decode_prediction(value)
        copies = {
            name: prediction.features[name[:1] if name[:1] in NAMES and name != "carrier" else name]
            for name in plan.features
        }
        prediction = type(prediction)(
            **{
                **{name: getattr(prediction, name) for name in prediction.__struct_fields__},
                "features": copies,
            }
        )
        compact = plan.compact(prediction)
        for position, count in plan.traffic(prediction).items():
            sums[position] += count
        for position, count in plan.labelled(compact, decode_ground_truth(label).label, 60_000).items():
            sums[position] += count
    return len(pack_counters(sums))


def _constant(name: str) -> float:
    """The number in the second column of the row of the page that begins with `name`."""
    found = re.search(rf"^\| {re.escape(name)} \| ([\d,.]+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, name
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize(("events", "name"), [(100, "pane of 100 events"), (2_000, "pane of 2,000 events")])
def test_a_packed_pane_is_as_large_as_the_page_says(events: int, name: str) -> None:
    assert _pane_bytes(_plan(1), events) == pytest.approx(_constant(name), rel=0.15)


def test_a_pane_of_many_features_is_as_large_as_the_page_says() -> None:
    plan = PanePlan(parse(models.SPECIFICATION), models._base())
    sums: Counter[int] = Counter()
    for (_, value), (_, label) in zip(models.predictions(1, 0, 56), models.labels(1, 0, 56), strict=True):
        prediction = decode_prediction(value)
        sums.update(plan.traffic(prediction))
        sums.update(plan.labelled(plan.compact(prediction), decode_ground_truth(label).label, 60_000))
    assert len(pack_counters(sums)) == pytest.approx(_constant("pane of 56 events, 20 features"), rel=0.05)
    of_features = {position: count for position, count in sums.items() if position >= plan.segment_size}
    assert len(pack_counters(of_features)) / len(plan.features) == pytest.approx(43, rel=0.05)


def test_a_feature_adds_what_the_page_says() -> None:
    more = (_pane_bytes(_plan(5), 2_000) - _pane_bytes(_plan(1), 2_000)) / 12
    assert more == pytest.approx(_constant("one more numeric feature"), rel=0.15)


def test_records_are_as_long_as_the_page_says() -> None:
    [prediction] = Bulk(1).predictions(0, 1)[1]
    [label] = Bulk(1).labels(np.zeros(1, dtype=np.uint64))[1]
    assert len(prediction) == _constant("prediction, JSON")
    assert len(label) == _constant("label, JSON")
