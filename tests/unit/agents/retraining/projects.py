"""Small model projects, written where a test wants them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

SPEC = """
[model]
name = "toy"
task = "binary"
[data]
id = "id"
event_time = "at"
label_time = "known_at"
label = "y"
max_label_delay = "1d"
segments = ["region"]
[features]
x = "numeric"
noise = "numeric"
region = "categorical"
[metrics]
primary = "roc_auc"
watch = ["roc_auc", "brier", "accuracy"]
windows = ["1d"]
[validation]
sensitive = ["region"]
[retraining]
training_window = "25d"
cool_down = "2d"
min_labels = 500
"""

PIPELINE = """
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def prepare(data):
    return data[data["y"].notna()]


def train(prepare, spec, seed):
    columns = ColumnTransformer(
        [("r", OneHotEncoder(handle_unknown="ignore"), ["region"]), ("n", "passthrough", ["x", "noise"])]
    )
    model = make_pipeline(columns, LogisticRegression(random_state=seed))
    return model.fit(prepare[spec.columns()], prepare["y"].astype(int))
"""


def write_project(folder: Path, pipeline: str = PIPELINE, spec: str = SPEC, **files: str) -> Path:
    """Write a project; further keyword arguments are modules by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "driftline.toml").write_text(dedent(spec), encoding="utf-8")
    (folder / "pipeline.py").write_text(dedent(pipeline), encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    return folder
