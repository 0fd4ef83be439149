"""driftline.toml: defaults, checks, and errors that name file, key and accepted values."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import SpecificationError
from schemas.metrics import METRICS
from schemas.specification import load, parse

MINIMAL = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "3d"
[features]
x = "numeric"
[metrics]
primary = "roc_auc"
"""


def test_defaults_of_a_minimal_specification() -> None:
    spec = parse(MINIMAL)
    assert (spec.model.positive, spec.model.threshold) == (1, 0.5)
    assert spec.revision_horizon_ms == spec.max_label_delay_ms == 3 * 86_400_000
    assert spec.watched == ["roc_auc"]
    assert spec.approval.mode == "auto"
    assert spec.data.segments == []


def test_the_example_of_the_repository_parses() -> None:
    spec = load(Path(__file__).parents[3] / "examples" / "flights")
    assert spec.name == "flight-delay"
    assert spec.pane_ms == 86_400_000
    assert spec.count_windows == {"1000n": 1000}
    assert spec.schedule_ms == 30 * 86_400_000


@pytest.mark.parametrize(
    ("windows", "pane_ms"),
    [
        ('["1d", "7d"]', 86_400_000),
        ('["6h", "1d"]', 6 * 3_600_000),
        ('["500n"]', 86_400_000),
        ('["90m", "1h"]', 1_800_000),
    ],
)
def test_a_pane_is_the_common_divisor_of_the_windows(windows: str, pane_ms: int) -> None:
    assert parse(MINIMAL + f"windows = {windows}\n").pane_ms == pane_ms


@pytest.mark.parametrize(
    ("old", "new", "key", "hint"),
    [
        ('task = "binary"', 'task = "ranking"', "model.task", "multiclass"),
        ('x = "numeric"', 'x = "number"', "features", "categorical"),
        ('primary = "roc_auc"', 'primary = "auc"', "metrics.primary", "roc_auc"),
        ('primary = "roc_auc"', 'primary = "mae"', "metrics.primary", "brier"),
        ('max_label_delay = "3d"', 'max_label_delay = "soon"', "data.max_label_delay", "unit"),
        ('max_label_delay = "3d"', "max_label_delay = 3", "data.max_label_delay", "max_label_delay"),
        ('name = "m"', 'name = "a b"', "model.name", "letters"),
        ('name = "m"', 'name = "m"\nthreshold = 1.5', "model.threshold", "threshold"),
        ('name = "m"', 'name = "m"\ncolour = "red"', "model", "positive"),
        ('primary = "roc_auc"', 'primary = "roc_auc"\nwatch = ["cost"]', "metrics.cost", "false_negative"),
        ('primary = "roc_auc"', 'primary = "roc_auc"\n[alarms]\nbudget = "few"', "alarms.budget", "1/30d"),
        ('primary = "roc_auc"', 'primary = "roc_auc"\n[alarms]\ncool_down = "x"', "alarms.cool_down", "unit"),
        (
            'primary = "roc_auc"',
            'primary = "roc_auc"\n[alarms]\nthresholds = { auc = 0.7 }',
            "thresholds.auc",
            "roc_auc",
        ),
        (
            'primary = "roc_auc"',
            'primary = "roc_auc"\n[alarms]\nthresholds = { psi = 0.0 }',
            "thresholds.psi",
            "above 0",
        ),
        (
            'primary = "roc_auc"',
            'primary = "roc_auc"\n[retraining]\ntriggers = ["moon"]',
            "retraining.triggers",
            "drift",
        ),
        ('primary = "roc_auc"', 'primary = "roc_auc"\n[retraining]\ntriggers = ["schedule:x"]', "retraining", "unit"),
        ('primary = "roc_auc"', 'primary = "roc_auc"\n[retraining]\nprobation = "x"', "retraining.probation", "unit"),
        (
            'primary = "roc_auc"',
            'primary = "roc_auc"\nwindows = ["9n"]\n[retraining]\nprobation = "7d"',
            "retraining.probation",
            "1d",
        ),
        (
            'primary = "roc_auc"',
            'primary = "roc_auc"\n[retraining]\ntraining_window = "all"',
            "retraining.training_window",
            "unit",
        ),
        ('primary = "roc_auc"', 'primary = "roc_auc"\n[approval]\nmode = "maybe"', "approval.mode", "manual"),
        ('x = "numeric"', "", "features", "numeric"),
    ],
)
def test_errors_name_file_key_and_what_is_accepted(old: str, new: str, key: str, hint: str) -> None:
    assert old in MINIMAL
    with pytest.raises(SpecificationError) as caught:
        parse(MINIMAL.replace(old, new), file="some/driftline.toml")
    assert "some/driftline.toml" in caught.value.where
    assert key in caught.value.where
    assert hint in caught.value.remedy


def test_alarms_have_a_cool_down_of_their_own_or_that_of_retraining() -> None:
    plain = parse(MINIMAL + '[retraining]\ncool_down = "3d"')
    own = parse(
        MINIMAL + '[alarms]\ncool_down = "12h"\nminimum_labelled = 40\nthresholds = { "feature:x" = 0.4, psi = 0.2 }'
    )
    assert (plain.alarm_cool_down_ms, own.alarm_cool_down_ms) == (3 * 86_400_000, 12 * 3_600_000)
    assert (plain.alarms.minimum_labelled, own.alarms.minimum_labelled) == (100, 40)
    with pytest.raises(SpecificationError, match="at least 1"):
        parse(MINIMAL + "[alarms]\nminimum_labelled = 0")


def test_broken_toml_names_the_line() -> None:
    with pytest.raises(SpecificationError, match="line 2"):
        parse("[model]\nname = \n")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecificationError) as caught:
        load(tmp_path)
    assert "driftline init" in caught.value.remedy


def test_every_task_has_metrics() -> None:
    for task, metrics in METRICS.items():
        primary = metrics[0]
        assert parse(MINIMAL.replace("binary", task).replace("roc_auc", primary)).metrics.primary == primary
