"""What alarms promise whatever comes: hysteresis, a minimum of events, nothing about quality on thin coverage."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import segment_key, segment_of, utc
from schemas.events import Observation, QualityMetric, Severity
from schemas.reference import MetricReference
from schemas.specification import DriftMeasure
from streams import calibration as cal
from streams.detection import GOOD_PANES, Finding, Key, Watches
from streams.detectors import COVERAGE_PANES, THIN, Detectors
from streams.drift.measures import MEASURES
from streams.metrics.batch import label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.replay import DAY
from tests.support.simulate import World, day_of, learn, watching

USUAL = 0.9
"""Coverage that the detectors below know as usual."""


@lru_cache(maxsize=1)
def _plan() -> PanePlan:
    return learn(watching(windows=("1d",)), World(), 14, np.random.default_rng(1))


def _knowing(whole: float = USUAL, of_segment: float | None = None, segment: str = "origin=EWR") -> Detectors:
    """Detectors that know what coverage is usual."""
    detectors = Detectors("m", 1, _plan())
    detectors.coverage = [whole] * COVERAGE_PANES
    if of_segment is not None:
        detectors.coverages = {segment: (round(of_segment * 100_000), COVERAGE_PANES)}
    return detectors


def _judged(
    n: int, coverage: float, wrong: float, segment: str = "", detectors: Detectors | None = None
) -> list[Observation]:
    """What a day of so many labelled events says about quality."""
    plan = _plan()
    detectors = _knowing() if detectors is None else detectors
    rng = np.random.default_rng(2)
    rows = day_of(World(rows=5_000, wrong=wrong), rng)
    total = label_counters(plan, rows["label"][:n], rows["guess"][:n], rows["score"][:n])[0]
    metric = QualityMetric(
        model="m", version=1, window="1d", window_start=utc(0), window_end=utc(DAY), state="closed", revision=0,
        n=n, coverage=coverage, metrics=compute(plan, total, plan.spec.judged), segment=segment_of(segment),
    )  # fmt: skip
    return list(detectors.quality(segment, Window("1d", 0, DAY), metric, total=total, filled=1, now_ms=DAY))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.floats(0.0, 1.0), st.sampled_from(["", "origin=EWR"]))
def test_few_labelled_events_say_nothing_about_quality(n: int, wrong: float, segment: str) -> None:
    found = _judged(n, USUAL, wrong, segment)
    if n < _plan().spec.alarms.minimum_labelled:
        assert found == []
    elif wrong > 0.95:
        assert found


@settings(max_examples=40, deadline=None)
@given(st.integers(100, 2_000), st.floats(0.01, 1.0), st.floats(0.9, 1.0))
def test_thin_coverage_never_alarms_quality(n: int, coverage: float, wrong: float) -> None:
    """However bad the labels that came: they may be the bad ones."""
    found = _judged(n, coverage, wrong)
    assert bool(found) == (coverage >= THIN * USUAL)


@pytest.mark.parametrize(
    ("whole", "of_segment", "coverage", "judged"),
    [
        (0.5, 1.0, 0.4, False),  # thin here, though no thinner than the whole ever was
        (0.9, 0.4, 0.35, True),  # as many as ever come from there
        (0.9, 0.4, 0.15, False),
        (0.9, None, 0.4, False),  # what is not known of a segment is taken from the whole
        (0.9, None, 0.5, True),
    ],
)
def test_what_is_thin_in_a_segment_is_its_own(
    whole: float, of_segment: float | None, coverage: float, judged: bool
) -> None:
    knows = _knowing(whole, of_segment)
    assert bool(_judged(1_000, coverage, 1.0, "origin=EWR", knows)) == judged
    assert not _judged(1_000, THIN * whole - 0.01, 1.0, "", knows)


def test_labels_that_stay_away_everywhere_are_said_once() -> None:
    """Of the whole; of a segment where it alone is thin, and nothing where labels are as many as ever."""
    segment, pane = "origin=EWR", Window("pane", 0, DAY)
    for whole, there, said in ((100, 10, [""]), (900, 10, [segment]), (900, 90, [])):
        knows = _knowing(of_segment=USUAL)
        counts = np.zeros(_plan().size, np.int64)
        counts[_plan().slots["predicted"]], counts[_plan().slots["labelled"]] = 10_000, whole * 10
        found = [*knows.covered(pane, {"": (10_000, whole * 10), segment: (1_000, there * 10)}, DAY)]
        found += knows.pane(pane, counts, DAY)
        assert [segment_key(o.segment) for o in found if o.kind == "coverage"] == said


def test_labels_that_stay_away_never_become_usual() -> None:
    """Sixty panes of a tenth of the labels, overall and in a segment: they are as thin as on the first day."""
    knows, segment = _knowing(of_segment=USUAL), "origin=EWR"
    counts = np.zeros(_plan().size, np.int64)
    counts[_plan().slots["predicted"]], counts[_plan().slots["labelled"]] = 1_000, 100
    for day in range(60):
        pane = Window("pane", day * DAY, (day + 1) * DAY)
        for _ in knows.pane(pane, counts, pane.end_ms):
            pass
        for _ in knows.covered(pane, {"": (10_000, 9_000), segment: (1_000, 100)}, pane.end_ms):
            pass
    assert (knows.usual_coverage(), knows.usual_coverage(segment)) == (USUAL, USUAL)
    assert {key.segment for key in knows.watches.open if key.kind == "coverage"} == {"", segment}


@settings(max_examples=30, deadline=None)
@given(st.integers(100, 2_000), st.floats(0.01, 1.0))
def test_labels_that_are_thin_are_no_drift_of_labels(n: int, coverage: float) -> None:
    """Only one class gets labels, overall and in a segment: it may be the one that is known first."""
    plan, window = _plan(), Window("1d", 0, DAY)
    total = label_counters(plan, np.ones(n, int), np.ones(n, int), np.full(n, 0.7))[0]
    total[plan.slots["predicted"]] = predicted = round(n / coverage)
    knows = _knowing(of_segment=USUAL)
    said = [*knows.labels(window, total, DAY)]
    said += knows.segments("label", window, {"origin=EWR": total[: plan.segment_size]}, DAY)
    assert {o.kind for o in said} <= {"label-drift"}
    assert len(said) == (2 if n >= THIN * USUAL * predicted else 0)


def _finding(day: int, value: float) -> Finding:
    """Crosses above 1, is back below a half."""
    return Finding(day * DAY, (day + 1) * DAY, value, 0.0, 1.0, 100, "warning", value > 1.0, value < 0.5, {})


@given(st.floats(0.01, 0.5), st.floats(0.0, 1.0), st.booleans(), st.booleans())
def test_back_means_half_way_back(distance: float, loss: float, upper: bool, both: bool) -> None:
    """Between half way and the threshold nothing opens, and what is open stays."""
    sign = 1.0 if upper or both else -1.0
    bound = cal.Bound(0.5, 0.5 + sign * distance, 0.0, upper or both, both)
    value = 0.5 + (sign if not both or loss < 0.5 else -1.0) * loss
    assert bound.crossed(value) == (abs(value - 0.5) > abs(bound.threshold - 0.5))
    assert bound.recovered(value) == (abs(value - 0.5) < abs(bound.threshold - 0.5) / 2)
    assert bound.recovered(0.5 - sign * 0.001 if not both else 0.5)


@given(st.lists(st.floats(0.0, 2.0), max_size=60))
def test_an_observation_closes_after_good_panes_in_a_row_and_not_before(values: list[float]) -> None:
    watches, key = Watches("m", 1), Key("quality", "brier", "", "1d")
    opened, good = False, 0
    for day, value in enumerate(values):
        said = watches.look(key, _finding(day, value), day)
        good = good + 1 if value < 0.5 else 0
        wanted = None
        if not opened and value > 1.0:
            wanted, opened = "opened", True
        elif opened and good >= GOOD_PANES:
            wanted, opened = "closed", False
        assert (said.status if said is not None else None) == wanted
        if not opened:
            good = 0
        assert (key in watches.open) == opened


@given(st.lists(st.floats(0.5, 2.0), max_size=60))
def test_values_around_the_bound_do_not_flap(values: list[float]) -> None:
    watches, key = Watches("m", 1), Key("quality", "brier", "", "1d")
    said = [watches.look(key, _finding(day, value), day) for day, value in enumerate(values)]
    assert sum(each is not None for each in said) <= 1


RANK = {"info": 0, "warning": 1, "critical": 2}
_LEVEL = MetricReference(value=0.8, spread=0.01, scale=0.4, n=2_000, panes=14)
_SHARES = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    "name", ["roc_auc", "accuracy", "brier", "mae", "rmse", "r2", "calibration_error", "bias", "cost"]
)
@given(st.integers(100, 5_000), _SHARES, _SHARES)
@settings(max_examples=30, deadline=None)
def test_a_larger_loss_is_never_less_severe_nor_likelier(name: str, n: int, one: float, other: float) -> None:
    def at(p: float) -> cal.Bound:
        return cal.quality_bound(name, _LEVEL, n=n, panes=1, p=p)

    bound = at(1e-3)
    sign = 1.0 if bound.upper else -1.0
    less, more = sorted((one, other))
    values = [bound.reference + sign * loss for loss in (less, more)]
    assert bound.crossed(values[0]) <= bound.crossed(values[1])
    if not bound.crossed(values[0]):
        return
    severities = [RANK[cal.quality_severity(name, bound, value)] for value in values]
    chances = [cal.least_p(at, value, 1e-3) for value in values]
    assert severities == sorted(severities)
    assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("measure", MEASURES)
@given(_SHARES, _SHARES)
@settings(max_examples=30, deadline=None)
def test_a_larger_distance_is_never_less_severe(measure: DriftMeasure, one: float, other: float) -> None:
    bound = cal.Bound(0.02, 0.1, 0.01, True)
    severities = [RANK[cal.drift_severity(bound, value, measure)] for value in sorted((one, other))]
    assert severities == sorted(severities)
    assert RANK[cal.drift_severity(bound, 1e6, measure)] == 2


@given(st.lists(st.sampled_from(["info", "warning", "critical"]), min_size=1, max_size=30))
def test_what_is_open_never_gets_less_severe(severities: list[Severity]) -> None:
    """The worst speaks until it closes: nobody is told twice that something is bad."""
    watches, key = Watches("m", 1), Key("quality", "brier", "", "1d")
    findings = [_finding(day, 2.0)._replace(severity=severity) for day, severity in enumerate(severities)]
    said = [watches.look(key, finding, day) for day, finding in enumerate(findings)]
    told = [RANK[o.severity] for o in said if o is not None]
    assert told == sorted(set(told))
    assert told[-1] == max(RANK[severity] for severity in severities)
