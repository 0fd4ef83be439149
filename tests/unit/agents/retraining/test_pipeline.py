"""Steps run in order, once, and only again when something they depend on changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.retraining.pipeline import execute, plan
from agents.retraining.project import Project, load_project
from agents.retraining.step_cache import StepCache
from schemas.errors import TrainingError
from tests.unit.agents.retraining.projects import write_project

COUNTING = """
    calls = []

    def clean(data):
        calls.append("clean")
        return data.dropna()

    def size(clean, scale=2):
        calls.append("size")
        return len(clean) * scale

    def train(clean, size, seed):
        calls.append("train")
        return f"{len(clean)}/{size}/{seed}"

    def validate(train, data):
        calls.append("validate")
        return {"rows": len(data)}
"""
DATA = pd.DataFrame({"a": [1.0, None, 3.0]})


def _project(folder: Path, text: str = COUNTING) -> tuple[Project, list[str]]:
    project = load_project(write_project(folder, text))
    return project, project.functions["train"].__globals__["calls"]


def _run(project: Project, cache: StepCache | None = None, **keys: str) -> object:
    given = {"data": DATA, "seed": 7, "spec": project.spec}
    names = {"data": "d", "seed": "7", "spec": "s", **keys}
    environment = names.pop("environment", "e")
    return execute(project, given, names, cache=cache, environment=environment).values["train"]


def test_steps_run_once_in_order_and_only_what_is_needed(tmp_path: Path) -> None:
    project, calls = _project(tmp_path)
    assert [step.name for step in plan(project.functions, ("train", "validate"), tmp_path)] == [
        "clean",
        "size",
        "train",
        "validate",
    ]
    assert _run(project) == "2/4/7"
    assert calls == ["clean", "size", "train"]


def test_a_given_step_is_not_run(tmp_path: Path) -> None:
    project, calls = _project(tmp_path)
    run = execute(
        project, {"data": DATA, "train": "model"}, {"data": "d", "train": "t"}, roots=("validate",), environment=""
    )
    assert run.values["validate"] == {"rows": 3}
    assert calls == ["validate"]


def test_the_cache_answers_until_something_changes(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "cache", worth_s=0.0)
    project, calls = _project(tmp_path / "p")
    first = _run(project, cache)
    calls.clear()
    assert _run(project, cache) == first
    assert calls == []
    for change in ({"data": "d2"}, {"environment": "e2"}):
        _run(project, cache, **change)
        assert calls == ["clean", "size", "train"]
        calls.clear()
    _run(project, cache, seed="8")
    assert calls == ["train"]


def test_a_changed_helper_invalidates(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "cache", worth_s=0.0)
    text = "import helper\n\ndef train(data):\n    return helper.value()\n"
    for value in (1, 2):
        write_project(tmp_path / "p", text, helper=f"def value():\n    return {value}\n")
        assert _run(load_project(tmp_path / "p"), cache) == value


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"n": [1.0, np.nan], "s": ["a", None], "i": pd.array([1, None], dtype="Int64")}, index=[5, 9]),
        pd.DataFrame({"t": pd.to_datetime(["2013-01-01T00:00Z"]).astype("datetime64[ms, UTC]")}),
        "text",
        3.5,
        None,
    ],
)
def test_values_come_back_equal(tmp_path: Path, value: object) -> None:
    cache = StepCache(tmp_path, worth_s=0.0)
    cache.put("k", value, 1.0)
    hit, found = cache.get("k")
    assert hit
    assert found.equals(value) if isinstance(value, pd.DataFrame) else found == value


def test_an_estimator_comes_back_predicting_the_same(tmp_path: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.random.default_rng(0).normal(size=(200, 2))
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows, rows[:, 0] > 0)
    cache = StepCache(tmp_path, worth_s=0.0)
    cache.put("k", model, 1.0)
    hit, found = cache.get("k")
    assert hit
    assert (found.predict_proba(rows) == model.predict_proba(rows)).all()


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json\nbody", b'{"format":"json","sha256":"0"}\n1'])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    cache = StepCache(tmp_path, worth_s=0.0)
    cache.put("k", 1, 1.0)
    (tmp_path / "k").write_bytes(damage)
    assert cache.get("k") == (False, None)


def test_what_has_no_format_is_not_kept(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, worth_s=0.0)
    cache.put("k", object(), 1.0)
    cache.put("l", lambda: None, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, max_bytes=3_000, worth_s=0.0)
    for number in range(10):
        cache.put(f"k{number}", "x" * 900, 1.0)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000
    assert cache.get("k9")[0]
    assert not cache.get("k0")[0]


def test_a_failing_step_names_its_line(tmp_path: Path) -> None:
    project = load_project(
        write_project(tmp_path, "def train(data):\n    rows = data\n    return rows['no such column']\n")
    )
    with pytest.raises(TrainingError) as caught:
        _run(project)
    assert caught.value.where == f"{tmp_path / 'pipeline.py'}:3"
    assert "train" in caught.value.what
    assert "no such column" in caught.value.what


def test_steps_may_import_from_the_project_while_they_run(tmp_path: Path) -> None:
    text = "def train(data):\n    from late import VALUE\n    return VALUE\n"
    assert _run(load_project(write_project(tmp_path, text, late="VALUE = 5\n"))) == 5


def test_what_is_computed_quickly_is_not_kept(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, worth_s=0.5)
    cache.put("quick", 1, 0.4)
    cache.put("slow", 1, 0.6)
    assert not cache.get("quick")[0]
    assert cache.get("slow") == (True, 1)
