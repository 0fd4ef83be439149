"""Probation: what is compared, when a version goes back, how rarely a good one does, what repeats change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from agents.retraining.probation import FALSE_ALARM, MOST_WAITING, Outcome, Probation
from schemas.codec import utc
from schemas.events import QualityMetric
from schemas.specification import parse
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import DAY_MS

SPECIFICATION = parse(SPEC + 'probation = "7d"\n')
ROW_SD = 0.31
"""Spread of one row's difference in ROC AUC, about that of two trees on the flights."""


def _interval(n: int) -> dict[str, float]:
    half = 1.645 * ROW_SD / n**0.5
    return {"low": -half, "high": half, "n": n}


REPORT = {"primary": _interval(6000), "segments": {"region=north": _interval(3000), "region=south": _interval(3000)}}


def metric(version: int, day: int, value: float | None, n: int = 900, **over: Any) -> QualityMetric:
    fields: dict[str, Any] = {
        "model": "toy",
        "version": version,
        "segment": None,
        "window": "1d",
        "window_start": utc(day * DAY_MS),
        "window_end": utc((day + 1) * DAY_MS),
        "state": "closed",
        "revision": 0,
        "n": n,
        "coverage": 1.0,
        "metrics": {"roc_auc": value},
        **over,
    }
    return QualityMetric(**fields)


def begun(report: dict[str, Any] | None = REPORT) -> Probation:
    probation = Probation.begin(SPECIFICATION, version=2, previous=1, report=report)
    assert probation is not None
    return probation


def fed(probation: Probation, metrics: Iterator[QualityMetric] | list[QualityMetric]) -> Outcome | None:
    return next((outcome for one in metrics if (outcome := probation.take(one)) is not None), None)


def days(harm: float, count: int = 12, *, first: int = 0, n: int = 900) -> Iterator[QualityMetric]:
    """Whole days, the previous version's metric first, as the aggregation sends them."""
    for day in range(first, first + count):
        yield metric(1, day, 0.7 + 0.02 * (-1) ** day, n)
        yield metric(2, day, 0.7 + 0.02 * (-1) ** day - harm, n)


@pytest.mark.parametrize(
    ("report", "harm", "decision", "windows", "words"),
    [
        (REPORT, 0.1, "rolled-back", 1, "roc_auc 0.6200 against 0.7200 of version 1 on the same 900"),
        (REPORT, 0.03, "rolled-back", 2, "worse by 0.0300 (more than"),
        (REPORT, 0.0, "passed", 8, "equal"),
        (REPORT, -0.1, "passed", 8, "better by 0.1000"),
        # Without the gate's word on chance, the windows have to say it themselves.
        (None, 0.1, "rolled-back", 2, "worse by 0.1000"),
    ],
)
def test_decides_by_windows_of_both(
    report: dict[str, Any] | None, harm: float, decision: str, windows: int, words: str
) -> None:
    outcome = fed(begun(report), days(harm))
    assert outcome is not None
    assert (outcome.decision, outcome.report["compared"][0]["windows"]) == (decision, windows)
    assert words in outcome.reason
    # Known when the labels of the last window were: a day later.
    assert outcome.at == utc((windows + 1) * DAY_MS)


def test_a_segment_that_suffers_sends_back() -> None:
    def stream() -> Iterator[QualityMetric]:
        for day in range(8):
            for version in (1, 2):
                yield metric(version, day, 0.7)
                for region, worse in (("north", 0.15), ("south", -0.15)):
                    value = 0.7 - worse * (version == 2)
                    yield metric(version, day, value, 450, segment={"region": region})

    outcome = fed(begun(), stream())
    assert outcome is not None
    assert outcome.decision == "rolled-back"
    assert "in segment region=north" in outcome.reason


@pytest.mark.parametrize(
    "spoil",
    [
        {"state": "revised", "revision": 1},
        {"state": "provisional"},
        {"estimated": True},
        {"window": "7d"},
        {"version": 3},
        {"n": 450},
        {"metrics": {"roc_auc": None}},
        {"metrics": {}},
    ],
)
def test_what_is_not_the_same_rows_is_not_compared(spoil: dict[str, Any]) -> None:
    """The window of the swap, revisions, estimates, other windows and versions say nothing, however bad they look."""
    probation = begun()
    assert fed(probation, days(0.0, 1)) is None
    assert probation.take(metric(1, 1, 0.7)) is None
    assert probation.take(msgspec.structs.replace(metric(2, 1, 0.1), **spoil)) is None
    assert probation.subjects[0].windows == 1


def test_ends_without_a_word_of_the_other_version() -> None:
    """The other version could not be loaded: there is nothing to wait for once the time is over."""
    outcome = fed(begun(), (metric(2, day, 0.7) for day in range(12)))
    assert outcome is not None
    assert (outcome.decision, outcome.at) == ("passed", utc(10 * DAY_MS))
    assert "no window of 1d could be compared with version 1" in outcome.reason
    waiting = begun()
    assert fed(waiting, (metric(1, day, 0.7) for day in range(100))) is None
    assert len(waiting.halves) == MOST_WAITING


def test_windows_that_overlap_are_compared_once() -> None:
    spec = parse(SPEC.replace('windows = ["1d"]', 'windows = ["2d", "3d"]') + 'probation = "6d"\n')
    probation = Probation.begin(spec, version=2, previous=1, report=REPORT)
    assert probation is not None
    assert probation.window == "2d"
    fed(probation, (metric(v, day, 0.7, window="2d") for day in range(6) for v in (1, 2)))
    assert probation.subjects[0].windows == 3


@pytest.mark.parametrize("retraining", ["", 'probation = "0"\n'])
def test_nobody_asked_for_one(retraining: str) -> None:
    assert Probation.begin(parse(SPEC + retraining), version=2, previous=1) is None


def test_stops_restores_and_repeats_without_a_difference() -> None:
    stream = [*days(0.012, 12)]
    once, often = begun(), begun()
    expected = fed(once, stream)
    outcome = None
    for at, one in enumerate(stream):
        often = Probation.from_snapshot(often.snapshot())
        for again in stream[max(at - 3, 0) : at]:
            assert often.take(again) is None or outcome
        outcome = outcome or often.take(one)
        if outcome:
            break
    assert outcome == expected is not None


@pytest.mark.parametrize(
    ("harm", "tau", "at_most", "at_least"), [(0.0, 0.0, FALSE_ALARM, 0), (0.0, 0.01, 0.06, 0), (0.03, 0.003, 1, 0.95)]
)
def test_a_good_version_is_rarely_sent_back(harm: float, tau: float, at_most: float, at_least: float) -> None:
    """Windows that differ by chance and by `tau` beyond it; the gate knows of chance only. Seeded."""
    rng = np.random.default_rng(7)
    back = 0
    runs = 400
    for _ in range(runs):
        probation = begun()
        noise = rng.normal(0.0, (ROW_SD**2 / 900 + tau**2) ** 0.5, 9)
        stream = (metric(v, day, 0.7 - (harm + noise[day]) * (v == 2)) for day in range(9) for v in (1, 2))
        outcome = fed(probation, stream)
        assert outcome is not None
        back += outcome.decision == "rolled-back"
    assert at_least <= back / runs <= at_most
