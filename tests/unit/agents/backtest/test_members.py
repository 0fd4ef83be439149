"""A project for many models: one of them is replayed, as if it stood alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.backtest.run import run_backtest
from schemas.errors import SpecificationError, TrainingError
from tests.unit.agents.backtest.stories import answered, options
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import toy_table

FLEET = SPEC.replace('name = "toy"', 'name = "toy-{line}"\nper = "line"')


def lines(**columns: Any) -> pd.DataFrame:
    """Rows of two lines: numbers, as a CSV file would hold them."""
    one, two = toy_table(20, 60, **columns), toy_table(20, 40, **columns)
    both = pd.concat([one.assign(line=7), two.assign(line=12, id="b" + two["id"])], ignore_index=True)
    return both.sample(frac=1, random_state=3, ignore_index=True)


def without_name(found: dict[str, Any]) -> dict[str, Any]:
    """A document without what must differ: names, and how long it took."""
    return json.loads(json.dumps({key: value for key, value in found.items() if key not in {"seconds", "data"}}))


@pytest.mark.parametrize("name", ["history.parquet", "history.csv"])
def test_a_member_is_replayed_as_if_alone(tmp_path: Path, name: str) -> None:
    table = answered(lines())
    fleet = options(tmp_path / "fleet", table, spec=FLEET, name=name, member="12")
    found = run_backtest(fleet)
    mine = table[table["line"] == 12]
    alone = run_backtest(options(tmp_path / "one", mine, spec=SPEC.replace('"toy"', '"toy-12"'), name=name))
    assert found["model"] == "toy-12"
    assert found["events"] > 0
    assert without_name(found) == without_name(alone)


def test_a_member_is_trained_with_its_name_and_what_it_inherits(tmp_path: Path) -> None:
    asked = options(tmp_path / "fleet", lines(), spec=FLEET, member="7", frozen=True)
    spec = asked.project / "driftline.toml"
    defaults = tmp_path / "fleet" / "defaults.toml"
    whole = spec.read_text()
    model, rest = whole.split("[data]")
    defaults.write_text("[data]" + rest)
    spec.write_text('extends = "../defaults.toml"\n' + model)
    inherited = run_backtest(asked)
    assert inherited["model"] == "toy-7"
    spec.write_text(whole)
    assert without_name(run_backtest(asked)) == without_name(inherited)


def test_what_is_refused_says_how_to_mend_it(tmp_path: Path) -> None:
    asked = options(tmp_path / "fleet", answered(lines()), spec=FLEET)
    with pytest.raises(SpecificationError, match="one for each line") as refused:
        run_backtest(asked)
    assert refused.value.remedy == "name one: --member 12"
    with pytest.raises(TrainingError, match=r"no row of '8', the table has 12, 7"):
        run_backtest(replace(asked, member="8"))
    alone = options(tmp_path / "one", answered(lines()), member="7")
    with pytest.raises(SpecificationError, match="stands for one model"):
        run_backtest(alone)
