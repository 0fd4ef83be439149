"""Projects load, or say in which file and line they are wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agents.retraining.project import load_project
from schemas.errors import ProjectError, SpecificationError
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project


def test_a_good_project_loads(tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path))
    assert project.spec.name == "toy"
    assert set(project.files) == {"driftline.toml", "pipeline.py"}
    assert {"prepare", "train"} <= set(project.functions)


@pytest.mark.parametrize(
    ("pipeline", "line", "words"),
    [
        ("def train(data):\n    return (\n", 2, "syntax"),
        ("import math\n\nvalue = 1 / 0\n\ndef train(data): ...\n", 3, "ZeroDivisionError"),
        ("import no_such_module\n", 1, "no_such_module"),
        ("def prepare(data): ...\n", 1, "no function train"),
        ("def train(data): ...\n\ndef validate(train, holdout): ...\n", 3, "'holdout'"),
        ("\ndef train(prepre): ...\n\ndef prepare(data): ...\n", 2, "'prepre'"),
        ("def a(b): ...\n\ndef b(a): ...\n\ndef train(a): ...\n", 1, "a → b → a"),
        ("def train(*rows): ...\n", 1, "*rows"),
        ("async def train(data): ...\n", 1, "no plain function"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, pipeline: str, line: int, words: str) -> None:
    write_project(tmp_path, pipeline)
    with pytest.raises(ProjectError) as caught:
        load_project(tmp_path)
    assert caught.value.where == f"{tmp_path / 'pipeline.py'}:{line}"
    assert words in caught.value.what
    assert caught.value.remedy


def test_a_helpers_mistake_names_the_helper(tmp_path: Path) -> None:
    write_project(tmp_path, "from helper import f\n\ndef train(data): ...\n", helper="\n\nf = {}['x']\n")
    with pytest.raises(ProjectError) as caught:
        load_project(tmp_path)
    assert caught.value.where == f"{tmp_path / 'helper.py'}:3"


@pytest.mark.parametrize("missing", ["driftline.toml", "pipeline.py"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    write_project(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises((ProjectError, SpecificationError), match=missing):
        load_project(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no such folder"):
        load_project(tmp_path / "nowhere")


def test_a_wrong_specification_names_the_key(tmp_path: Path) -> None:
    write_project(tmp_path, spec=SPEC.replace('"binary"', '"binry"'))
    with pytest.raises(SpecificationError) as caught:
        load_project(tmp_path)
    assert "driftline.toml [model.task]" in caught.value.where


def test_a_project_for_many_models_is_loaded_as_one_of_them(tmp_path: Path) -> None:
    write_project(tmp_path, spec=SPEC.replace('name = "toy"', 'name = "toy-{route}"\nper = "route"'))
    with pytest.raises(SpecificationError, match="stands for many models"):
        load_project(tmp_path)
    project = load_project(tmp_path, member="12")
    assert project.spec.name == "toy-12"
    assert project.files["driftline.toml"].decode() == project.spec_text


def test_hashes_follow_contents_not_places(tmp_path: Path) -> None:
    first = load_project(write_project(tmp_path / "a"))
    second = load_project(write_project(tmp_path / "b"))
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "pipeline.py").write_text("x")
    assert first.tree_hash == second.tree_hash == load_project(tmp_path / "b").tree_hash
    budget = load_project(write_project(tmp_path / "c", spec=SPEC.replace("500", "600")))
    assert budget.tree_hash != first.tree_hash
    assert budget.code_hash == first.code_hash
    code = load_project(write_project(tmp_path / "d", PIPELINE + "\n# changed\n"))
    assert code.code_hash != first.code_hash


def test_an_oversize_project_is_refused(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "numbers.json").write_text("1" * 5_000_001)
    with pytest.raises(ProjectError, match="5 MB"):
        load_project(tmp_path)


def test_modules_of_two_projects_may_bear_the_same_name(tmp_path: Path) -> None:
    text = "from helper import VALUE\n\ndef train(data):\n    return VALUE\n"
    one = load_project(write_project(tmp_path / "one", text, helper="VALUE = 1\n"))
    two = load_project(write_project(tmp_path / "two", text, helper="VALUE = 2\n"))
    assert (one.functions["train"](None), two.functions["train"](None)) == (1, 2)
    assert "helper" not in sys.modules
    assert str(tmp_path / "one") not in sys.path
