"""Defaults that specifications inherit, and one specification for many models."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import fleets
from schemas.errors import SpecificationError
from schemas.inheritance import resolved_text
from schemas.specification import load, parse

OWN = """
[model]
name = "toy"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[features]
x = "numeric"
"""
DEFAULTS = """
[data]
max_label_delay = "9d"
segments = ["region"]
[metrics]
primary = "roc_auc"
windows = ["1d", "7d"]
[approval]
mode = "manual"
"""
FLEET = OWN.replace('"toy"', '"bus-{route}"\nper = "route"') + '[metrics]\nprimary = "roc_auc"\n'


def test_what_a_file_says_counts_and_what_it_leaves_out_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "defaults.toml").write_text('extends = "base.toml"\n' + DEFAULTS)
    (tmp_path / "base.toml").write_text('[metrics]\nwindows = ["3d"]\n[alarms]\nbudget = "1/90d"\n')
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "driftline.toml").write_text('extends = "../defaults.toml"\n' + OWN)
    spec = load(folder)
    assert (spec.data.max_label_delay, spec.data.segments) == ("1d", ["region"])
    assert (spec.metrics.windows, spec.alarms.budget, spec.approval.mode) == (["1d", "7d"], "1/90d", "manual")
    # The resolved text says the same without the files it came from.
    assert parse(resolved_text(folder / "driftline.toml")) == spec


def test_a_text_that_inherits_nothing_stays_as_written(tmp_path: Path) -> None:
    (tmp_path / "driftline.toml").write_text("# mine\n" + OWN)
    assert resolved_text(tmp_path / "driftline.toml") == "# mine\n" + OWN


@pytest.mark.parametrize(
    ("files", "words", "where"),
    [
        ({"driftline.toml": 'extends = "a.toml"\n'}, "a.toml cannot be read", "driftline.toml [extends]"),
        ({"driftline.toml": "extends = 3\n"}, "3 is no path", "driftline.toml [extends]"),
        (
            {"driftline.toml": 'extends = "a.toml"\n', "a.toml": 'extends = "driftline.toml"\n'},
            "driftline.toml → a.toml → driftline.toml",
            "a.toml [extends]",
        ),
        ({"driftline.toml": 'extends = "a.toml"\n', "a.toml": "a = [\n"}, "not TOML", "a.toml"),
    ],
)
def test_defaults_that_cannot_be_used(tmp_path: Path, files: dict[str, str], words: str, where: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecificationError, match=words) as found:
        resolved_text(tmp_path / "driftline.toml")
    assert found.value.where is not None
    assert found.value.where.endswith(where)


def test_a_text_without_its_file_cannot_extend(tmp_path: Path) -> None:
    with pytest.raises(SpecificationError, match="known only where its file lies"):
        parse('extends = "../defaults.toml"\n' + OWN + '[metrics]\nprimary = "roc_auc"\n')


@pytest.mark.parametrize(("value", "name"), [("12", "bus-12"), (12, "bus-12"), (12.0, "bus-12"), (" 7A ", "bus-7A")])
def test_a_member_has_a_specification_of_its_own(value: object, name: str) -> None:
    text, spec = fleets.member(FLEET, value)
    assert (spec.name, spec.is_fleet, spec.model.per) == (name, False, None)
    assert spec.model.member == {"route": name.removeprefix("bus-")}
    assert parse(text) == spec
    assert fleets.is_member_name(parse(FLEET), name)
    assert not fleets.is_member_name(parse(FLEET), "tram-1")


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        (FLEET, "New York", "cannot be a model name"),
        (FLEET, "", "cannot be a model name"),
        (FLEET.replace("bus-{route}", "{route}"), ".hidden", "cannot be a model name"),
        (OWN + '[metrics]\nprimary = "roc_auc"\n', "12", "stands for one model"),
    ],
)
def test_values_that_name_no_model(text: str, value: str, words: str) -> None:
    if value == "":
        text = text.replace("bus-{route}", "{route}")
    with pytest.raises(SpecificationError, match=words):
        fleets.member(text, value)


@pytest.mark.parametrize(
    ("name", "per", "where"),
    [
        ("bus-{route}", None, "model.per"),
        ("bus", "route", "model.name"),
        ("bus-{line}", "route", "model.name"),
        ("{route}-{route}", "route", "model.name"),
    ],
)
def test_names_that_cannot_tell_models_apart(name: str, per: str | None, where: str) -> None:
    said = f'\nper = "{per}"' if per else ""
    text = OWN.replace('"toy"', f'"{name}"{said}') + '[metrics]\nprimary = "roc_auc"\n'
    with pytest.raises(SpecificationError) as found:
        parse(text)
    assert where in str(found.value.where)


def test_member_is_not_for_a_fleet_to_say() -> None:
    with pytest.raises(SpecificationError, match="filled in"):
        parse(FLEET.replace('per = "route"', 'per = "route"\nmember = { route = "1" }'))
