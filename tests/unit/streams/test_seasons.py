"""A generated year with seasons: the second year raises nothing, a real shift inside a season does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.alerting.incident import Effects
from agents.alerting.logic import AlertBook
from schemas.codec import decode, encode
from schemas.events import Observation
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification, parse
from streams.detectors import Detectors
from streams.drift.subjects import subjects
from streams.panes import PanePlan
from streams.reference import History, compile_reference
from streams.seasons import MONTHS, month_weights
from streams.windows import Window

DAY = 86_400_000
START = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp() * 1000)
ROWS = 400

SPEC = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "3d"
[features]
temp = "numeric"
wind = "numeric"
carrier = "categorical"
[metrics]
primary = "roc_auc"
watch = ["roc_auc"]
windows = ["1d", "7d"]
"""


def spec() -> Specification:
    return parse(SPEC)


@dataclass
class Rows:
    """Rows of many days."""

    times: NDArray[np.int64]
    temp: NDArray[np.float64]
    wind: NDArray[np.float64]
    carrier: NDArray[np.object_]
    score: NDArray[np.float64]
    label: NDArray[np.int64]

    @property
    def features(self) -> dict[str, NDArray]:
        return {"temp": self.temp, "wind": self.wind, "carrier": self.carrier}


def days(first: int, count: int, seed: int, *, hotter: float = 0.0, late: float = 0.0) -> Rows:
    """Weather with a yearly course and days that differ; scores and labels follow the temperature."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(first, first + count), ROWS)
    course = -np.cos(2 * np.pi * (day - late - 15) / 365.25)
    weather = np.repeat(rng.normal(0.0, 2.0, count), ROWS)
    temp = 12 + 12 * course + weather + rng.normal(0.0, 3.0, len(day)) + hotter
    wind = rng.gamma(2.0, 4.0, len(day))
    carrier = rng.choice(np.array(["AA", "BB", "CC"], dtype=object), len(day), p=[0.5, 0.3, 0.2])
    carrier[(course > 0.7) & (rng.random(len(day)) < 0.2)] = "SUMMER"
    score = 1 / (1 + np.exp(-(-1.0 + 0.15 * (temp - 12) + rng.normal(0.0, 1.0, len(day)))))
    label = (rng.random(len(day)) < score).astype(np.int64)
    return Rows(START + day * DAY + 1000, temp, wind, carrier, score, label)


@lru_cache(maxsize=4)
def learnt(count: int, first: int = 0, years: int = 0) -> PanePlan:
    """A plan whose reference saw `count` days, with a season's history of `years` beside where that is not 0."""
    rows = days(first, count, 1)
    more = days(0, 365 * years, 3) if years else None
    history = None
    if more is not None:
        guesses = (more.score >= 0.5).astype(int)
        history = History(more.features, more.label, guesses, more.score, more.times)
    reference = compile_reference(
        spec(),
        rows.features,
        labels=rows.label,
        predictions=(rows.score >= 0.5).astype(int),
        scores=rows.score,
        event_time_ms=rows.times,
        importances={"temp": 0.6, "wind": 0.3, "carrier": 0.1},
        history=history,
    )
    return PanePlan(spec(), decode(encode(reference), ReferenceStatistics))


def counted(plan: PanePlan, rows: Rows) -> NDArray[np.int64]:
    """Counters of every day, as the join would have counted them; shape (days, counters)."""
    day = (rows.times - rows.times[0]) // DAY
    out = np.zeros((int(day.max()) + 1, plan.size), np.int64)
    for name, slots in plan.features.items():
        compiled = plan.reference.features[name]
        column = rows.features[name]
        if slots.numeric:
            codes = np.searchsorted(compiled.edges, column, side="right")  # type: ignore[union-attr]
        else:
            table = {key: index for index, key in enumerate(compiled.categories)}  # type: ignore[union-attr]
            codes = np.array([table.get(str(value), len(table)) for value in column])
        np.add.at(out, (day, slots.bins.start + codes), 1)
    scores = plan.slots["scores"]
    np.add.at(out, (day, scores.start + np.searchsorted(plan.score_edges, rows.score, side="right")), 1)
    side = len(plan.classes) + 1
    confusion = plan.slots["confusion"].start + rows.label * side + (rows.score >= 0.5)
    np.add.at(out, (day, confusion), 1)
    out[:, plan.slots["predicted"]] = ROWS
    out[:, plan.slots["labelled"]] = ROWS
    return out


def watched(plan: PanePlan, rows: Rows) -> tuple[list[Observation], Effects]:
    """What detectors and alerting say of days after the reference: windows of one and of seven days."""
    detectors, book = Detectors("m", 1, plan), AlertBook(model="m")
    panes = counted(plan, rows)
    said: list[Observation] = []
    told = Effects()
    start = int(rows.times[0] // DAY * DAY)
    for number in range(len(panes)):
        end = start + (number + 1) * DAY
        for name, length in (("1d", 1), ("7d", 7)):
            if number + 1 < length:
                continue
            total = panes[number + 1 - length : number + 1].sum(axis=0)
            window = Window(name, end - length * DAY, end)
            for found in (*detectors.traffic(window, total, end), *detectors.labels(window, total, end)):
                if found.kind in {"data-drift", "prediction-drift", "label-drift"}:
                    said.append(found)
                    told.extend(book.observed(found, spec()))
    return said, told


def test_the_second_year_raises_no_incident_and_says_that_it_is_the_season() -> None:
    said, told = watched(learnt(365), days(365, 365, 2))
    assert told.alerts == []
    seasonal = [o for o in said if o.evidence.get("seasonal") is True]
    assert {o.subject for o in seasonal} >= {"feature:temp", "prediction", "label"}
    assert all(o.severity == "info" for o in seasonal)
    first = next(o for o in seasonal if o.subject == "feature:temp")
    assert first.evidence["season"] in {"January", "December to January"}
    assert first.evidence["whole_psi"] == pytest.approx(first.value, abs=1e-6)
    assert first.evidence["season_psi"] < first.evidence["season_threshold"] < first.evidence["whole_psi"]
    serious = [o for o in said if o.status != "closed" and o.severity != "info"]
    assert serious == []


def test_a_year_that_is_two_weeks_late_is_the_season_too() -> None:
    _, told = watched(learnt(365), days(365, 365, 2, late=12))
    assert told.alerts == []


@pytest.mark.parametrize("first", [365 + 15, 365 + 190])
def test_a_real_shift_inside_a_season_is_an_incident(first: int) -> None:
    """Ten degrees more in January make a day of April, in July one that no year has."""
    said, told = watched(learnt(365), days(first, 20, 2, hotter=10.0))
    real = next(o for o in said if o.severity != "info")
    assert real.evidence["seasonal"] is False
    assert real.value == pytest.approx(real.evidence["season_psi"], abs=1e-6)
    assert real.reference is not None
    (_, alert) = told.alerts[0]
    assert (alert.kind, alert.status) in {("data-drift", "opened"), ("prediction-drift", "opened")}
    assert f"compared with {real.evidence['season']}" in alert.explanation
    if first < 400:
        assert alert.subject == "feature:temp"


def test_what_was_a_shift_and_is_only_the_season_any_more_is_said() -> None:
    plan = learnt(365)
    shifted, ordinary = days(365 + 15, 20, 2, hotter=10.0), days(365 + 35, 20, 5)
    rows = Rows(
        *(np.concatenate([getattr(shifted, f), getattr(ordinary, f)]) for f in Rows.__dataclass_fields__)  # type: ignore[arg-type]
    )
    said, _ = watched(plan, rows)
    of_temp = [o for o in said if o.subject == "feature:temp" and o.window == "1d"]
    assert of_temp[0].evidence["seasonal"] is False
    last = of_temp[-1]
    assert (last.severity, last.status) in {("info", "updated"), ("info", "closed")}


def test_without_a_year_the_calendar_is_not_known_and_the_observation_says_how_much_is() -> None:
    plan = learnt(60)
    assert plan.reference.seasons is None
    said, told = watched(plan, days(150, 20, 2))
    (_, alert) = told.alerts[0]
    assert alert.kind == "data-drift"
    assert "The reference covers 60 days" in alert.explanation
    assert next(o for o in said if o.subject == "feature:temp").evidence["reference_days"] == 60


def test_a_history_beside_a_short_reference_gives_it_seasons() -> None:
    plan = learnt(60, first=365, years=1)
    assert plan.reference.seasons is not None
    _, told = watched(plan, days(365 + 60, 300, 2))
    assert told.alerts == []


def test_seasons_are_small_and_in_the_bins_that_drift_is_measured_in() -> None:
    plan = learnt(365)
    seasons = plan.reference.seasons
    assert seasons is not None
    for subject in subjects(plan):
        months = seasons.months[subject.name]
        assert len(months) == MONTHS
        assert {len(counts) for counts in months} == {len(subject.reference)}
        assert sum(map(sum, months)) == subject.reference_n
    assert len(encode(seasons)) < 10_000


@given(st.integers(0, 3000), st.integers(1, 800), st.floats(-30, 30))
def test_month_weights_are_shares_of_neighbouring_months(first: int, length: int, shift: float) -> None:
    weights = month_weights(START + first * DAY, START + (first + length) * DAY, shift)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0
    if length == 1:
        used = [month for month, weight in enumerate(weights) if weight]
        assert len(used) <= 2
        assert len(used) < 2 or (used[1] - used[0]) % MONTHS in {1, MONTHS - 1}
    if length >= 366:
        assert max(weights) < 2.5 * min(weights)
