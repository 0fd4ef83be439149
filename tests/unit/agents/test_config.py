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


@pytest.mark.parametrize("name", ["archive", "artifacts"])
@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("s3://bucket/folder", True),
        ("s3://bucket/who@example:x", True),
        ("sftp://ada@host/folder", True),
        ("/tmp/a:b@c", True),
        ("s3://AKIA:hush@bucket/folder", False),
        ("ftp://ada:hush@host", False),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(name: str, url: str, accepted: bool) -> None:
    settings = load_settings(**{f"{name}_url": url})
    if accepted:
        assert getattr(settings, name) == url
        return
    with pytest.raises(ConfigurationError, match="password") as told:
        getattr(settings, name)
    assert "hush" not in str(told.value)
