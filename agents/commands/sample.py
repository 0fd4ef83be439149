"""The project that `driftline init` writes: small, generated from a seed, and good enough to register and score."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec

from schemas.errors import ProjectError

SPECIFICATION = """\
# What Driftline has to know about this model. `driftline config show DIR` prints it with all defaults.
[model]
name = "{name}"
task = "binary"
positive = 1
threshold = 0.5
description = "Will this parcel arrive later than promised?"

[data]                              # columns of the table given at registration; times without a zone are UTC
id = "parcel_id"
event_time = "shipped_at"
label_time = "delivered_at"         # when the label becomes known
label = "late"
max_label_delay = "5d"              # after it, a prediction without a label has expired
revision_horizon = "7d"             # so long a label may be corrected, or be there before its prediction
segments = ["carrier"]

[features]
distance_km = "numeric"
weight_kg = "numeric"
hour = "numeric"
carrier = "categorical"
express = "boolean"

[metrics]
primary = "roc_auc"
watch = ["roc_auc", "brier", "accuracy"]
windows = ["1d", "7d"]              # sliding; "7d/7d": whole weeks; "1000n": the newest 1,000 labelled

[alarms]
budget = "1/30d"                    # false incidents tolerated: one in thirty days

[retraining]
triggers = ["quality", "drift"]
training_window = "90d"
cool_down = "7d"
min_labels = 500

[approval]
mode = "auto"                       # "manual": `driftline approve`, or the page
"""

PIPELINE = '''\
"""How the model is made: plain functions. A parameter names the step whose result it takes, or data, seed, spec."""

from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMERIC = ["distance_km", "weight_kg", "hour"]
CATEGORICAL = ["carrier", "express"]


def prepare(data):
    """Rows whose label is known."""
    return data[data["late"].notna()]


def train(prepare, seed):
    """A fitted estimator that takes the raw feature columns: transforms live inside it, missing values too."""
    transform = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMERIC),
        (OneHotEncoder(handle_unknown="ignore"), CATEGORICAL),
    )
    model = make_pipeline(transform, LogisticRegression(max_iter=500, random_state=seed))
    return model.fit(prepare[NUMERIC + CATEGORICAL], prepare["late"].astype(int))
'''

CARRIERS = {"blue": -0.3, "green": 0.0, "red": 0.6}
START = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING_DAYS = 60
LIVE_DAYS = 2
PARCELS_A_DAY = 40
SEED = 7


@dataclass(frozen=True)
class Parcel:
    """One generated parcel; `late` follows from the features by a logistic rule and chance."""

    parcel_id: str
    shipped_at: datetime
    delivered_at: datetime
    distance_km: float
    weight_kg: float
    hour: int
    carrier: str
    express: bool
    late: int

    def features(self) -> dict[str, float | int | str | bool]:
        """The features as a request carries them."""
        return {
            "distance_km": self.distance_km,
            "weight_kg": self.weight_kg,
            "hour": self.hour,
            "carrier": self.carrier,
            "express": self.express,
        }


def parcels(start: datetime, days: int, rng: Random) -> Iterator[Parcel]:
    """Parcels of `days` days, in order of shipping."""
    for number in range(days * PARCELS_A_DAY):
        shipped = start + timedelta(days=1) * (number / PARCELS_A_DAY)
        distance = round(rng.lognormvariate(5.5, 0.8), 1)
        weight = round(rng.lognormvariate(0.5, 0.7), 2)
        carrier = rng.choice(list(CARRIERS))
        express = rng.random() < 0.3
        odds = -1.6 + CARRIERS[carrier] + 0.004 * (distance - 300) + 0.08 * (shipped.hour - 12) - 0.9 * express
        late = int(rng.random() < 1 / (1 + math.exp(-odds)))
        hours = 20 + distance / 40 + (26 if late else 0) + rng.uniform(0, 8)
        yield Parcel(
            parcel_id=f"parcel-{shipped:%m%d}-{number % PARCELS_A_DAY:03d}",
            shipped_at=shipped.replace(microsecond=0),
            delivered_at=(shipped + timedelta(hours=min(hours, 110))).replace(microsecond=0),
            distance_km=distance,
            weight_kg=weight,
            hour=shipped.hour,
            carrier=carrier,
            express=express,
            late=late,
        )


def model_name(directory: Path) -> str:
    """The model is called as its folder, as far as a model can be.

    Examples
    --------
    >>> model_name(Path("/tmp/My parcels!")), model_name(Path("/"))
    ('My-parcels', 'late-parcel')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).strip("-._")[:128] or "late-parcel"


def sample_files(name: str = "late-parcel") -> dict[str, str]:
    """Name and text of every file of the sample project; the same on every call."""
    rng = Random(SEED)
    training = list(parcels(START, TRAINING_DAYS, rng))
    live = list(parcels(START + timedelta(days=TRAINING_DAYS), LIVE_DAYS, rng))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["parcel_id", "shipped_at", "delivered_at", *training[0].features(), "late"])
    for parcel in training:
        times = (parcel.shipped_at.isoformat(), parcel.delivered_at.isoformat())
        writer.writerow([parcel.parcel_id, *times, *parcel.features().values(), parcel.late])
    requests = [
        {
            "request_id": parcel.parcel_id,
            "model": name,
            "event_time_ms": _ms(parcel.shipped_at),
            "features": parcel.features(),
        }
        for parcel in live
    ]
    labels = [
        {"prediction_id": parcel.parcel_id, "event_time_ms": _ms(parcel.delivered_at), "label": parcel.late}
        for parcel in sorted(live, key=lambda parcel: parcel.delivered_at)
    ]
    return {
        "driftline.toml": SPECIFICATION.replace("{name}", name),
        "pipeline.py": PIPELINE,
        "training.csv": table.getvalue(),
        "requests.jsonl": _lines(requests),
        "labels.jsonl": _lines(labels),
    }


def watched_files(name: str = "late-parcel") -> dict[str, str]:
    """As `sample_files`, of a model that is served elsewhere: past predictions, then records for the two topics."""
    rng = Random(SEED)
    past = list(parcels(START, TRAINING_DAYS, rng))
    live = list(parcels(START + timedelta(days=TRAINING_DAYS), LIVE_DAYS, rng))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = [*past[0].features(), "prediction", "probability", "late"]
    writer.writerow(["parcel_id", "shipped_at", "delivered_at", *columns])
    for parcel in past:
        times = (parcel.shipped_at.isoformat(), parcel.delivered_at.isoformat())
        writer.writerow([parcel.parcel_id, *times, *parcel.features().values(), *_answer(parcel), parcel.late])
    predictions = []
    for parcel in live:
        prediction, probability = _answer(parcel)
        predictions.append(
            {
                "prediction_id": parcel.parcel_id,
                "model": name,
                "version": "2026-03-rc1",
                "event_time_ms": _ms(parcel.shipped_at),
                "features": parcel.features(),
                "prediction": prediction,
                "probability": probability,
            }
        )
    return {
        "driftline.toml": SPECIFICATION.replace("{name}", name),
        "past.csv": table.getvalue(),
        "predictions.jsonl": _lines(predictions),
        "labels.jsonl": sample_files(name)["labels.jsonl"],
    }


def _answer(parcel: Parcel) -> tuple[int, float]:
    """What a model elsewhere says of a parcel."""
    odds = -1.6 + CARRIERS[parcel.carrier] + 0.004 * (parcel.distance_km - 300) - 0.9 * parcel.express
    probability = round(1 / (1 + math.exp(-odds)), 6)
    return int(probability >= 0.5), probability


def write_sample(directory: Path, *, monitor_only: bool = False) -> list[Path]:
    """Write the sample project into `directory` and return its files.

    Raises
    ------
    ProjectError
        Where one of the files is there already (nothing is written then) or the folder cannot be written.
    """
    files = watched_files(model_name(directory)) if monitor_only else sample_files(model_name(directory))
    taken = [name for name in files if (directory / name).exists()]
    if taken:
        raise ProjectError(
            f"{', '.join(taken)} exists already; nothing was written",
            where=str(directory),
            remedy="name another folder, or move the files away",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProjectError(
            f"cannot be written: {error.strerror}", where=str(directory), remedy="name a folder that you may write to"
        ) from error
    return [directory / name for name in files]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _lines(documents: list[dict[str, object]]) -> str:
    return "".join(msgspec.json.encode(document).decode() + "\n" for document in documents)
