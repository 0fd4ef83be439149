"""Whatever distance decides: chance crosses as often as allowed, a shift is found, and everything is published."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest
from scipy import stats

from schemas.errors import SpecificationError
from schemas.events import DriftMetric, Observation
from schemas.specification import DriftMeasure, Specification, parse
from streams import calibration as cal
from streams.aggregate import AggregatePartition
from streams.drift.distances import jensen_shannon, psi, wasserstein
from streams.drift.measures import MEASURES, SCALES, chi2_rows, measure_of, noise_of, rows_of
from streams.drift.subjects import subjects
from streams.drift.table import SubjectTable
from streams.panes import PanePlan
from tests.support.plans import reference, specification
from tests.support.replay import DAY, watermark
from tests.support.simulate import World, day_of, learn, record_of, watching

GAPS = np.array([0.4, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2, 0.3, 0.7])


def deciding(spec: Specification, measure: DriftMeasure) -> Specification:
    return msgspec.structs.replace(spec, alarms=msgspec.structs.replace(spec.alarms, drift=measure))


def test_the_names_are_those_of_the_specification() -> None:
    assert get_args(DriftMeasure) == MEASURES
    text = '[model]\nname="m"\ntask="binary"\n[data]\nid="i"\nevent_time="t"\nlabel="y"\nmax_label_delay="1d"\n'
    text += '[features]\nx="numeric"\n[metrics]\nprimary="roc_auc"\n[alarms]\ndrift='
    assert parse(text + '"ks"').alarms.drift == "ks"
    with pytest.raises(SpecificationError, match="wasserstein"):
        parse(text + '"kolmogorov"')


def test_categories_get_a_distance_without_order() -> None:
    assert [measure_of(name, ordered=False) for name in MEASURES] == [
        "psi", "jensen_shannon", "chi2", "chi2", "jensen_shannon",
    ]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES)
def test_rows_are_the_distances_that_are_published(measure: DriftMeasure) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(20, 200, 10), rng.integers(20, 200, 10)
    centres = np.concatenate([[0.0], np.cumsum(GAPS)])
    (found,) = rows_of(measure, a[None].astype(float), b.astype(float), GAPS)
    gap = np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum())
    statistic = stats.chi2_contingency(np.array([a, b]), correction=False).statistic
    expected = {
        "psi": psi(a, b),
        "jensen_shannon": jensen_shannon(a, b),
        "chi2": statistic * (1 / a.sum() + 1 / b.sum()),
        "ks": gap.max(),
        "wasserstein": wasserstein(a, b, centres, 1.0),
    }[measure]
    assert SCALES[measure].back(found) == pytest.approx(expected)
    assert SCALES[measure].forth(expected) == pytest.approx(found)


@pytest.mark.parametrize("measure", MEASURES)
def test_chance_is_what_the_scale_says(measure: DriftMeasure) -> None:
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.full(10, 5.0))
    n, m, looks = 400, 3000, 6000
    scale, freedom = noise_of(measure, m * shares, GAPS)
    mean = scale * (1 / n + 1 / m)
    values = np.concatenate(
        [
            rows_of(measure, rng.multinomial(n, shares, 200).astype(float), rng.multinomial(m, shares) * 1.0, GAPS)
            for _ in range(looks // 200)
        ]
    )
    # Bins hide some of the largest gap: Kolmogorov's distribution is that of numbers without bins.
    assert (0.5 if measure == "ks" else 0.9) * mean < values.mean() < 1.1 * mean
    crossed = int((values > mean * stats.chi2.isf(0.01, freedom) / freedom).sum())
    # Windows of one reference share what it is off by: twice the deviation of independent looks.
    assert crossed <= 0.01 * looks + 5 * 2 * np.sqrt(0.01 * looks)


@pytest.mark.parametrize("measure", MEASURES)
def test_bounds_are_told_in_the_measures_own_numbers(measure: DriftMeasure) -> None:
    plan = PanePlan(deciding(specification(), measure), reference())
    table = SubjectTable(plan, subjects(plan))
    for row, subject in enumerate(table.subjects):
        n = np.full(len(table.subjects), 500.0)
        usual = table.told(cal.usual_drift(table.noise, n, table.reference_n, np.zeros(len(n))))[row]
        bounds = [cal.drift_bound(plan, subject, "1d", n=500, p=p) for p in (1e-2, 1e-4, 1e-8)]
        assert [bound.reference for bound in bounds] == pytest.approx([usual] * 3)
        assert bounds[0].threshold <= bounds[1].threshold < bounds[2].threshold
        assert bounds[0].threshold - usual >= table.least[row] * (1 - 1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_shift_is_found_and_a_calm_stream_is_left_alone(measure: DriftMeasure) -> None:
    rng = np.random.default_rng(3)
    learnt = learn(deciding(watching(windows=("1d",)), measure), World(), 14, rng)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    told: list[DriftMetric] = []
    said: list[Observation] = []
    for day in range(30):
        aggregate.merge(record_of(learnt, day_of(World(shift=1.0 if day >= 20 else 0.0), rng), day))
        for event in aggregate.merge(watermark((day + 1) * DAY)):
            told += [event] if isinstance(event, DriftMetric) else []
            said += [event] if isinstance(event, Observation) and event.kind == "data-drift" else []
    distance = [metric for metric in told if metric.subject == "feature:distance"]
    assert [metric.drifted for metric in distance] == [False] * 20 + [True] * 10
    assert {metric.decides for metric in distance} == {measure}
    origin = [metric for metric in told if metric.subject == "feature:origin"]
    assert {metric.decides for metric in origin} == {measure_of(measure, ordered=False)}
    assert next((o.status, o.subject, o.evidence["statistic"]) for o in said) == ("opened", "feature:distance", measure)
    assert {o.subject for o in said} == {"feature:distance"}
    everything = {"psi", "jensen_shannon", "ks", "ks_p", "wasserstein"}
    assert everything <= set(distance[0].statistics)
    assert {"psi", "jensen_shannon", "chi2", "chi2_p"} <= set(origin[0].statistics)


def test_an_empty_window_has_no_chi_squared_distance() -> None:
    assert chi2_rows(np.zeros((1, 3)), np.array([1.0, 2.0, 0.0])).tolist() == [pytest.approx(1.0)]
