"""The fleet's budget: from the environment, from config.toml, or by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.config import CONFIG_FILE, load_settings
from schemas.errors import ConfigurationError

DAY = 86_400_000


@pytest.mark.parametrize(
    ("setting", "file", "per_day"),
    [
        ("", None, 1.0),
        ("", "", 1.0),
        ("", '[fleet]\nbudget = "3/1d"\n', 3.0),
        ("2/1d", '[fleet]\nbudget = "3/1d"\n', 2.0),
        ("1/7d", None, 1 / 7),
    ],
)
def test_the_setting_wins_over_the_file_and_the_file_over_the_default(
    tmp_path: Path, setting: str, file: str | None, per_day: float
) -> None:
    if file is not None:
        (tmp_path / CONFIG_FILE).write_text(file)
    settings = load_settings(home=tmp_path, fleet_budget=setting)
    assert settings.fleet_budget_per_ms * DAY == pytest.approx(per_day)


@pytest.mark.parametrize(
    "file", ["[fleet", '[fleet]\nbugdet = "1/1d"', "[fleets]\n", '[fleet]\nbudget = "often"', "fleet = 1"]
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(file)
    with pytest.raises(ConfigurationError, match=CONFIG_FILE):
        _ = load_settings(home=tmp_path).fleet_budget_per_ms
