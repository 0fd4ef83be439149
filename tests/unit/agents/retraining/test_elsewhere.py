"""The reference of a watched model from a file: what it needs, what it says, and every mistake by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.retraining.elsewhere import check_window, reference_of_file
from schemas.errors import ConfigurationError, TrainingError
from schemas.reference import NumericReference
from schemas.specification import Specification, parse
from streams.drift.subjects import subjects
from streams.panes import PanePlan
from streams.stability import Day, instability


def spec_of(task: str = "binary", primary: str = "roc_auc") -> Specification:
    return parse(
        f"""
[model]
name = "w"
task = "{task}"
[data]
id = "id"
event_time = "at"
label = "y"
label_time = "known_at"
max_label_delay = "1d"
segments = ["region"]
[features]
x = "numeric"
noise = "numeric"
kind = "categorical"
[metrics]
primary = "{primary}"
"""
    )


def past(rows: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    x = rng.normal(size=rows)
    probability = 1 / (1 + np.exp(-2 * x))
    return pd.DataFrame(
        {
            "id": [f"r{row}" for row in range(rows)],
            "at": pd.date_range("2024-01-01", periods=rows, freq="1h", tz="UTC"),
            "x": x,
            "noise": rng.normal(size=rows),
            "kind": rng.choice(["a", "b"], rows),
            "region": rng.choice(["north", "south"], rows),
            "prediction": (probability >= 0.5).astype(int),
            "probability": probability,
            "y": (rng.random(rows) < probability).astype(int),
        }
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_past_predictions_are_a_reference(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"past{suffix}"
    frame = past().sample(frac=1, random_state=1)
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file, index=False)
    found, rows, labelled = reference_of_file(file, spec_of())
    assert (rows, labelled, found.rows) == (600, 600, 600)
    assert 0.8 < found.metrics["roc_auc"].value < 1.0
    assert found.classes == ["0", "1"]
    assert set(found.features) == {"x", "noise", "kind"}
    assert set(found.segments) == {"region=north", "region=south"}
    # Seen from outside, the answers depend on x and on nothing else.
    assert found.importances["x"] > 0.8
    assert max(found.importances["noise"], found.importances["kind"]) < 0.05


def test_without_labels_times_ids_and_probabilities_it_is_one_too(tmp_path: Path) -> None:
    past()[["x", "noise", "kind", "region", "prediction"]].to_csv(tmp_path / "p.csv", index=False)
    found, rows, labelled = reference_of_file(tmp_path / "p.csv", spec_of())
    assert (rows, labelled) == (600, 0)
    assert found.metrics == {}
    assert found.classes == ["0", "1"]
    names = [subject.name for subject in subjects(PanePlan(spec_of(), found))]
    assert names == ["feature:x", "feature:noise", "feature:kind", "prediction"]


def test_a_binary_model_may_say_its_probability_as_its_prediction(tmp_path: Path) -> None:
    frame = past().drop(columns="prediction").rename(columns={"probability": "prediction"})
    frame.to_parquet(tmp_path / "p.parquet", index=False)
    found, _, _ = reference_of_file(tmp_path / "p.parquet", spec_of())
    assert found.scores is not None
    assert 0.8 < found.metrics["roc_auc"].value < 1.0


def test_regressions_and_classes(tmp_path: Path) -> None:
    frame = past()
    frame["prediction"], frame["y"] = 3 * frame["x"], 3 * frame["x"] + frame["noise"]
    frame.drop(columns="probability").to_parquet(tmp_path / "r.parquet", index=False)
    found, _, _ = reference_of_file(tmp_path / "r.parquet", spec_of("regression", "rmse"))
    assert found.metrics["rmse"].value == pytest.approx(1.0, abs=0.1)
    assert isinstance(found.labels, NumericReference)
    frame["prediction"] = np.where(frame["x"] > 0, "up", "down")
    frame["y"] = np.where(frame["x"] + frame["noise"] > 0, "up", "down")
    frame.to_parquet(tmp_path / "c.parquet", index=False)
    found, _, _ = reference_of_file(tmp_path / "c.parquet", spec_of("multiclass", "accuracy"))
    assert found.classes == ["down", "up"]
    assert found.importances["x"] > 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["prediction"]), "lacks the column prediction"),
        (lambda f: f.drop(columns=["x", "kind"]), "lacks the columns x, kind"),
        (lambda f: f.assign(probability=1.5), "is no probability"),
        (lambda f: f.assign(probability="high"), "a probability is no number"),
        (lambda f: f.assign(x="far"), "hold text"),
        (lambda f: f.assign(prediction=None), "a prediction is missing"),
        (lambda f: f.head(20), "20 predictions are no reference"),
        (lambda f: f.assign(y=np.arange(len(f)) % 3), "the labels are"),
        (lambda f: f.assign(at="noon"), "a time cannot be read"),
        (lambda f: f.assign(id="same"), "repeat the id"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: object, message: str) -> None:
    change(past()).to_csv(tmp_path / "p.csv", index=False)  # type: ignore[operator]
    with pytest.raises(TrainingError, match=message) as caught:
        reference_of_file(tmp_path / "p.csv", spec_of())
    assert "p.csv" in caught.value.where


def test_there_has_to_be_a_file_of_a_kind(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file") as caught:
        reference_of_file(tmp_path / "none.csv", spec_of())
    assert "--reference" in caught.value.remedy
    (tmp_path / "p.xlsx").write_text("x")
    with pytest.raises(TrainingError, match="not accepted"):
        reference_of_file(tmp_path / "p.xlsx", spec_of())


@pytest.mark.parametrize("text", ["1d", "36h", "30m"])
def test_a_window_is_whole_days(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no time to learn from"):
        check_window(text)
    assert check_window("14d") == 14 * 86_400_000


_FLAT = np.array([300, 300, 300])


@pytest.mark.parametrize(
    ("days", "second", "expected"),
    [
        ([Day(f"d{d}", 100, 0.80 + 0.005 * (d % 3)) for d in range(14)], _FLAT, None),
        ([Day(f"d{d}", 100 if d < 13 else 0, None) for d in range(14)], _FLAT, "traffic: 0 predictions on d13"),
        ([Day(f"d{d}", 100 if d else 501, None) for d in range(14)], _FLAT, "traffic: 501 predictions on d0"),
        ([Day(f"d{d}", 100 if d % 7 else 25, None) for d in range(14)], _FLAT, None),  # Sundays
        ([Day(f"d{d}", 100, (0.9 if d < 7 else 0.7) + 0.005 * (d % 3)) for d in range(14)], _FLAT, "quality: 0.9"),
        ([Day(f"d{d}", 100, (0.90 if d < 7 else 0.89) + 0.001 * (d % 3)) for d in range(14)], _FLAT, None),  # small
        ([Day(f"d{d}", 100, None) for d in range(14)], np.array([50, 100, 750]), "predictions: PSI"),
    ],
)
def test_days_are_stable_or_it_is_said_why_not(days: list[Day], second: np.ndarray, expected: str | None) -> None:
    found = instability(days, _FLAT, second)
    assert found is None if expected is None else (found or "").startswith(expected)


@pytest.mark.parametrize("name", ["past.parquet", "past.csv"])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_probabilities_may_be_maps_as_in_traffic(tmp_path: Path, task: str, name: str) -> None:
    """Of a map the number that counts is taken: the file says the same as one with numbers."""
    spec = spec_of(task, "accuracy")
    table = past()
    one = table["probability"]
    if task == "multiclass":
        table[["prediction", "y"]] = table[["prediction", "y"]].map(lambda value: "no" if value == 0 else "yes")
        table["probability"] = np.where(table["prediction"] == "yes", one, 1 - one)
    keys = ("0", "1") if task == "binary" else ("no", "yes")
    maps = table.assign(probability=[dict(zip(keys, (1 - p, p), strict=True)) for p in one])
    if name.endswith("csv"):
        maps["probability"] = maps["probability"].map(json.dumps)
    references = []
    for folder, rows in (("numbers", table), ("maps", maps)):
        file = tmp_path / folder / name
        file.parent.mkdir()
        rows.to_csv(file, index=False) if name.endswith("csv") else rows.to_parquet(file, index=False)
        references.append(reference_of_file(file, spec)[0])
    assert references[0] == references[1]
