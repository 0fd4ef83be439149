"""What the demo changes in the specification it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.commands.demo import EXAMPLE
from agents.demo.options import DemoOptions
from agents.demo.run import asked_for
from schemas.specification import FILE_NAME, parse


@pytest.mark.parametrize(
    ("given", "mode", "probation"),
    [({}, "auto", "0"), ({"manual": True}, "manual", "0"), ({"probation": "7d"}, "auto", "7d")],
)
def test_the_project_is_as_the_options_want_it(given: dict[str, Any], mode: str, probation: str) -> None:
    options = DemoOptions(project=EXAMPLE, home=Path("home"), report=Path("report"), **given)
    text = (EXAMPLE / FILE_NAME).read_text(encoding="utf-8")
    spec = parse(asked_for(text, options))
    assert (spec.approval.mode, spec.retraining.probation) == (mode, probation)
    assert (asked_for(text, options) == text) is (not given)
