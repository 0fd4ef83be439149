"""KS and Wasserstein distances from counts come within 0.01 of those of the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.drift_families import FAMILIES, WHOLE, exact, windows
from benchmarks.drift_ours import judge, plan_of
from schemas.reference import NumericReference
from streams.drift.ordered import Ordered, OrderedTable
from streams.drift.subjects import subjects
from streams.drift.table import SubjectTable
from streams.panes import PanePlan
from streams.sketches import coarsened
from streams.traffic import traffic_counters

ROWS = 12_000
NAMES = [f"f{number}" for number in range(len(FAMILIES))]
FARTHER = {
    # Where ten numbers too few are kept: values at one point of a wide bin, and whole numbers of which each is common.
    ("u-shaped", "one value"): 0.016,
    ("u-shaped", "scale 0.7"): 0.014,
    ("rounded", "*"): 0.025,
}
REFERENCES = {family: draw(np.random.default_rng(5), ROWS) for family, draw in FAMILIES.items()}
PLAN = plan_of(np.array(list(REFERENCES.values())), NAMES)
TABLE = SubjectTable(PLAN, subjects(PLAN))


def _allowed(family: str, change: str) -> float:
    return FARTHER.get((family, change), FARTHER.get((family, "*"), 0.01))


@pytest.mark.parametrize(("name", "family"), list(zip(NAMES, FAMILIES, strict=True)))
def test_published_statistics_are_those_of_the_raw_values(name: str, family: str) -> None:
    before = REFERENCES[family]
    compiled = PLAN.reference.features[name]
    assert isinstance(compiled, NumericReference)
    edges = np.asarray(coarsened(compiled).edges)
    for change, window in windows(before, family, ROWS, np.random.default_rng(6)):
        published = judge(PLAN, {name: window})[0][name]
        for statistic, value in exact(before, window, edges).items():
            ours = published[statistic]
            assert ours is not None
            if not np.isnan(value):
                allowed = _allowed(family, change) if statistic in {"ks", "wasserstein"} else max(0.01, 0.01 * value)
                assert ours == pytest.approx(value, abs=allowed), (change, statistic)


def test_scores_are_measured_as_finely() -> None:
    rng = np.random.default_rng(7)
    before = rng.beta(2, 5, ROWS)
    plan = _scored(before)
    table = SubjectTable(plan, subjects(plan))
    row = table.rows["prediction"]
    for a, b in ((2.0, 5.0), (2.5, 5.0), (2.0, 3.0), (0.7, 0.7)):
        after = rng.beta(a, b, ROWS)
        counters = traffic_counters(plan, {"f0": after}, predictions=(after > 0.5).astype(int), scores=after)[0]
        measured = table.measure(counters)
        found = exact(before, after, np.array([0.5]))
        assert measured.ks[row] == pytest.approx(found["ks"], abs=0.01)
        assert measured.wasserstein[row] == pytest.approx(found["wasserstein"], abs=0.01)


def _scored(scores: np.ndarray) -> PanePlan:
    from streams.reference import compile_reference

    spec = plan_of(REFERENCES["normal"][None, :], ["f0"]).spec
    n = len(scores)
    compiled = compile_reference(
        spec,
        {"f0": scores},
        labels=np.arange(n) % 2,
        predictions=(scores > 0.5).astype(int),
        scores=scores,
        event_time_ms=np.arange(n) * 14 * 86_400_000 // n,
    )
    return PanePlan(spec, compiled)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 6))
def test_parts_of_a_window_add_up_to_the_whole(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.permutation(values)[: rng.integers(50, 400)]
        for name, values in zip(NAMES[:4], REFERENCES.values(), strict=False)
    }
    n = min(map(len, columns.values()))
    columns = {name: column[:n] for name, column in columns.items()}
    cuts = np.sort(rng.integers(0, n + 1, parts - 1))
    summed = sum(
        traffic_counters(PLAN, {name: column[low:high] for name, column in columns.items()})[0]
        for low, high in zip([0, *cuts], [*cuts, n], strict=True)
        if high > low
    )
    whole = traffic_counters(PLAN, columns)[0]
    assert (np.asarray(summed) == whole).all()
    assert TABLE.measure(np.asarray(summed)).ks.tolist() == TABLE.measure(whole).ks.tolist()
    assert TABLE.measure(np.asarray(summed)).wasserstein.tolist() == TABLE.measure(whole).wasserstein.tolist()


@pytest.mark.parametrize(
    ("name", "family"), [pair for pair in zip(NAMES, FAMILIES, strict=True) if pair[1] != "half zeros"]
)
def test_the_farther_a_window_moved_the_larger_its_distances(name: str, family: str) -> None:
    before, row = REFERENCES[family], TABLE.rows[f"feature:{name}"]
    spread = before.std()
    for sign in (1.0, -1.0):
        ks, far = [], []
        for shift in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0):
            step = shift * spread if family not in WHOLE else float(np.round(shift * spread))
            measured = TABLE.measure(traffic_counters(PLAN, {name: before + sign * step})[0])
            ks.append(float(measured.ks[row]))
            far.append(float(measured.wasserstein[row]))
            assert far[-1] == pytest.approx(step / spread, abs=0.012)
        assert ks == sorted(ks)
        assert far == sorted(far)


def test_subjects_side_by_side_are_as_each_alone() -> None:
    rng = np.random.default_rng(8)
    known = [subject.ordered for subject in TABLE.subjects if subject.ordered is not None]
    wide = OrderedTable(known)
    for n in (1, 30, 2_000):
        counts, rest = np.zeros(wide.shape), np.zeros((len(known), 5))
        for row, ordered in enumerate(known):
            size = len(ordered.counts)
            counts[row, :size] = rng.multinomial(n, rng.dirichlet(np.full(size, 0.3)))
            rest[row] = [0, 0, *rng.normal(size=3) * n]
        ks, far = wide.distances(counts, rest)
        for row, ordered in enumerate(known):
            alone = OrderedTable([ordered]).distances(counts[row : row + 1, : len(ordered.counts)], rest[row : row + 1])
            assert [float(x[0]) for x in alone] == pytest.approx([ks[row], far[row]])


@pytest.mark.parametrize("family", ["normal", "exponential", "lognormal, long", "uniform", "two hills", "counts, few"])
def test_chance_is_what_the_reference_expects(family: str) -> None:
    rng = np.random.default_rng(9)
    name = NAMES[list(FAMILIES).index(family)]
    row, m, n = TABLE.rows[f"feature:{name}"], ROWS, 400
    ordered = TABLE.subjects[row].ordered
    assert isinstance(ordered, Ordered)
    squares = []
    for _ in range(400):
        measured = TABLE.measure(traffic_counters(PLAN, {name: FAMILIES[family](rng, n)})[0])
        squares.append(float(measured.wasserstein[row]) ** 2)
    expected = ordered.chance() * (1 / n + 1 / m)
    assert np.mean(squares) == pytest.approx(expected, rel=0.25)
