"""The flights example holds what the demo promises of it."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from schemas import specification

EXAMPLE = Path(__file__).parents[3] / "examples" / "flights"


def _module(name: str) -> ModuleType:
    located = importlib.util.spec_from_file_location(f"flights_example_{name}", EXAMPLE / f"{name}.py")
    assert located is not None
    assert located.loader is not None
    module = importlib.util.module_from_spec(located)
    located.loader.exec_module(module)
    return module


flights = _module("flights")
pipeline = _module("pipeline")
SPEC = specification.load(EXAMPLE)


@pytest.fixture(scope="module")
def january() -> pd.DataFrame:
    return flights.january_table()


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    return flights.replay()


def test_rows_are_those_of_the_source(january: pd.DataFrame, year: pd.DataFrame) -> None:
    assert len(january) == 27_004
    assert len(year) == 309_772
    ids = pd.concat([january["flight_id"], year["flight_id"]])
    assert ids.is_unique
    assert int(january["late"].notna().sum() + year["late"].notna().sum()) == 327_346


def test_columns_are_those_of_the_specification(january: pd.DataFrame) -> None:
    data = SPEC.data
    assert list(january) == [data.id, data.event_time, data.label_time, data.label, *SPEC.columns()]


def test_replay_is_in_order_of_event_time_and_follows_january(january: pd.DataFrame, year: pd.DataFrame) -> None:
    assert year["scheduled_departure"].is_monotonic_increasing
    assert january["scheduled_departure"].max() < year["scheduled_departure"].min()
    assert str(year["scheduled_departure"].dt.tz) == "UTC"


def test_a_label_is_known_exactly_where_the_flight_arrived(year: pd.DataFrame) -> None:
    assert (year["late"].isna() == year["actual_arrival"].isna()).all()
    hours = (year["actual_arrival"] - year["scheduled_departure"]).dt.total_seconds().dropna() / 3600
    # The shortest hops take 20 minutes in the air; the longest delay was a day.
    assert hours.min() > 0.25
    assert hours.max() < 36


def test_known_flights() -> None:
    table = flights.all_flights().set_index("flight_id")
    # dest IAH, scheduled 05:15–08:19 (UTC-5 and UTC-6), 11 minutes late.
    first = table.loc["20130101-UA1545-EWRIAH"]
    assert first["scheduled_departure"] == pd.Timestamp("2013-01-01T10:15Z")
    assert first["actual_arrival"] == pd.Timestamp("2013-01-01T14:30Z")
    assert first["late"] == 0
    # Arrives after midnight, in the night in which summer time ends.
    night = table.loc["20131103-AA185-JFKLAX"]
    assert night["actual_arrival"] == pd.Timestamp("2013-11-04T09:01Z")
    assert night["late"] == 1


def test_replay_by_date(year: pd.DataFrame) -> None:
    week = flights.replay("2013-03-01", "2013-03-08")
    local = week["scheduled_departure"].dt.tz_convert("America/New_York")
    assert local.min().strftime("%Y-%m-%d") == "2013-03-01"
    assert local.max().strftime("%Y-%m-%d") == "2013-03-07"
    assert len(week) == year["flight_id"].isin(week["flight_id"]).sum() > 6_000


def test_nothing_known_only_after_departure_is_a_feature() -> None:
    assert not {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"} & set(SPEC.features)


def test_model_beats_chance_takes_raw_columns_and_is_reproducible(january: pd.DataFrame, year: pd.DataFrame) -> None:
    from sklearn.metrics import roc_auc_score

    rows = pipeline.prepare(january, SPEC)
    first = pipeline.train(rows, SPEC, 7)
    again = pipeline.train(rows, SPEC, 7)
    week = year[year["late"].notna()].head(6_000)
    scores = first.predict_proba(week[SPEC.columns()])[:, 1]
    assert (scores == again.predict_proba(week[SPEC.columns()])[:, 1]).all()
    assert roc_auc_score(week["late"].astype(int), scores) > 0.58
    assert list(first.classes_) == [0, 1]


def test_model_takes_what_json_gives(january: pd.DataFrame) -> None:
    model = pipeline.train(pipeline.prepare(january, SPEC), SPEC, 0)
    known = json.loads(january[SPEC.columns()].head(3).to_json(orient="records"))
    strange = dict(known[0], carrier="ZZ", dest=None, temp=None, pressure=None)
    scores = model.predict_proba(pd.DataFrame([*known, strange, dict.fromkeys(SPEC.columns())], columns=SPEC.columns()))
    assert ((scores >= 0) & (scores <= 1)).all()


def test_model_is_a_safe_file(january: pd.DataFrame) -> None:
    import skops.io

    model = pipeline.train(pipeline.prepare(january, SPEC).head(3_000), SPEC, 0)
    untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    assert set(untrusted) <= {"sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}
