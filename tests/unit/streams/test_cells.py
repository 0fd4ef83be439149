"""Features in segments: counted and compared only where they are asked for."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from schemas.errors import SpecificationError
from schemas.reference import NumericReference
from schemas.specification import Specification, parse
from streams.cells import MOST_CELLS
from streams.drift.scatter import drift_key
from streams.drift.subjects import cell_name
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.sketches import coarsened
from tests.support.plans import plan, prediction, reference, specification
from tests.support.replay import DAY
from tests.support.simulate import ORIGINS, World, learn, watching


def test_what_is_not_asked_for_costs_nothing() -> None:
    off, one, both = (plan(segment_features=names) for names in ((), ("origin",), ("*",)))
    assert off.segment_size == off.features["distance"].bins.start
    assert max(off.traffic(prediction(origin="JFK"), "origin=JFK")) < off.segment_size
    assert one.segment_size == off.segment_size + 10  # two categories, one for all other, seven counters
    assert both.segment_size == both.size == off.size
    assert len({off.layout, one.layout, both.layout}) == 3
    # The name of a layout without any is what it was: nobody has to drain a topic for what is off.
    assert off.layout == "b57519ea13dde90a"


@pytest.mark.parametrize("names", [("distance",), ("origin",), ("distance", "origin")])
def test_in_a_segment_a_prediction_counts_as_it_does_overall(names: tuple[str, ...]) -> None:
    p = plan(segment_features=names)
    sent = prediction(distance=7e9, origin="XXX")
    overall, there = p.traffic(sent), p.traffic(sent, "origin=XXX")
    assert there == {at: count for at, count in overall.items() if at < p.segment_size}
    counted = {name for name, where in p.features.items() if where.bins.start in range(p.segment_size)}
    assert counted == set(names)
    assert list(p.features) == ["distance", "origin"]


def test_the_reference_holds_a_distribution_and_its_scatter_for_each_segment() -> None:
    learnt = learn(
        watching(windows=("1d",), segment_features=("*",)), World(rows=400, lost=0.1), 14, np.random.default_rng(1)
    )
    r = learnt.reference
    assert set(r.segment_drift) == {"prediction", "label", "feature:distance"}  # of `origin=JFK`, origin is no news
    there = r.segment_drift["feature:distance"]
    whole = r.features["distance"]
    assert isinstance(whole, NumericReference)
    assert np.sum(list(there.values()), axis=0).tolist() == coarsened(whole).counts
    assert sum(r.segment_missing["feature:distance"].values()) == whole.missing
    for origin in ORIGINS:
        cell = cell_name("feature:distance", f"origin={origin}")
        for name in ("excess", "missing", "top"):
            of_whole = r.drift[drift_key("feature:distance", "1d", name)]
            assert r.drift[drift_key(cell, "1d", name)] >= of_whole


def test_the_seasons_of_a_segment_are_learnt_with_those_of_the_whole() -> None:
    learnt = learn(
        watching(windows=("7d",), segment_features=("distance",)), World(rows=30), 365, np.random.default_rng(2)
    )
    seasons = learnt.reference.seasons
    assert seasons is not None
    cells = {cell_name("feature:distance", f"origin={origin}") for origin in ("EWR", "JFK")}
    assert cells <= set(seasons.months)


def test_too_many_segments_are_refused_with_the_way_out() -> None:
    spec = specification(segment_features=("distance",))
    n = MOST_CELLS * 2 + 2
    rng = np.random.default_rng(3)
    with pytest.raises(SpecificationError, match=r"segment_features.*1 features in 1,001 segments"):
        compile_reference(
            spec,
            {"distance": rng.random(n), "origin": np.array([f"o{at // 2}" for at in range(n)], dtype=object)},
            labels=np.arange(n) % 2,
            predictions=np.arange(n) % 2,
            scores=rng.random(n),
            event_time_ms=np.arange(n) * DAY // 100,
        )


def _with(features: str, segments: str = '["origin"]') -> Specification:
    return parse(
        f"""
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "3d"
segments = {segments}
[features]
distance = "numeric"
[metrics]
primary = "roc_auc"
[alarms]
segment_features = {features}
"""
    )


def test_names_are_checked() -> None:
    assert _with('["*"]').segment_features == ["distance"]
    with pytest.raises(SpecificationError, match="'distanec' is not accepted"):
        _with('["distanec"]')
    with pytest.raises(SpecificationError, match="no segment to watch features in"):
        _with('["distance"]', "[]")


def test_a_reference_of_before_watches_no_segment() -> None:
    spec = specification(segment_features=("distance",))
    old = PanePlan(spec, reference())
    from streams.detectors import Equipment

    assert Equipment.of(old).cells.segments == []
    assert msgspec.json.decode(msgspec.json.encode(reference()))["segment_missing"] == {}
