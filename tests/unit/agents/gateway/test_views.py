"""Figures, tables and words of the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from msgspec import structs

from agents.gateway import formats, views
from agents.gateway.logic import Board
from agents.gateway.views import VersionFacts
from streams.join.totals import zero
from tests.support.gateway import MODEL, MemoryRegistry, fill

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.70912, "0.7091"), (12.3456, "12.35"), (1234.5, "1,234"), (7, "7"), (None, "–"), (float("nan"), "–"),
     (-0.25, "-0.2500"), (True, "True"), (0.0, "0.0000")],
)  # fmt: skip
def test_figures(value: object, text: str) -> None:
    assert formats.figure(value) == text


def test_evidence_shows_plain_values_only() -> None:
    evidence = {
        "value": 0.5,
        "per_day": {"a": 1},
        "worst_days": [1, 2],
        "note": "x",
        "many": list(range(9)),
        "none": None,
    }
    assert formats.facts(evidence) == [
        ("value", "0.5000"), ("worst days", "1, 2"), ("note", "x"), ("many", "0, 1, 2, 3, 4, 5 …"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "champion", "approve", "reject", "restore"),
    [
        ("registered", 1, False, False, False),
        ("approval-requested", 1, True, True, False),
        ("rejected", 1, False, False, False),
        ("superseded", 1, False, False, True),
        ("rolled-back", 1, False, False, True),
        ("superseded", None, False, False, False),
    ],
)
def test_what_may_be_done_follows_the_stage(
    stage: str, champion: int | None, approve: bool, reject: bool, restore: bool
) -> None:
    [row] = views.version_rows([VersionFacts(2, stage, AT)], champion)
    assert (row.can_approve, row.can_reject, row.can_restore) == (approve, reject, restore)


def test_the_champion_is_marked_and_cannot_be_rolled_back_to() -> None:
    rows = views.version_rows([VersionFacts(1, "superseded", AT), VersionFacts(2, "promoted", AT)], 2)
    assert [(row.version, row.champion, row.can_restore) for row in rows] == [(2, True, False), (1, False, True)]


def test_tiles_say_what_is_missing_before_the_first_window() -> None:
    shown = views.tiles(Board().model("m"), primary="roc_auc", window="", totals={})
    assert [tile.value for tile in shown] == ["–", "–", "0", "–"]


def test_tiles_of_a_filled_board() -> None:
    board, registry = Board(), MemoryRegistry()
    fill(board, registry)
    shown = {
        tile.label: tile
        for tile in views.tiles(
            board.models[MODEL],
            primary="roc_auc",
            window="7d",
            totals=board.accounting(),
            open_incidents=board.open_incidents_of(MODEL),
        )
    }
    assert shown["Champion"].value == "3"
    assert shown["Open incidents"].value == "1"
    assert shown["Open incidents"].tone == "bad"
    assert shown["Predictions"].value == "160,000"
    assert shown["roc_auc"].note.startswith("last 7d, version 3")
    assert re.fullmatch(
        r"before labels: 0\.\d+ – 0\.\d+, trust 0\.70, last 7d, version 3, n 780", shown["roc_auc, estimated"].note
    )


def test_the_ledger_adds_up_or_says_by_how_much_it_does_not() -> None:
    totals = zero() | {"predictions": 10, "pending": 1, "labelled": 7, "expired": 2, "labels": 8, "labels.matched": 7,
                       "labels.late": 1}  # fmt: skip
    ledger = views.accounting(totals, 4)
    assert ledger is not None
    assert ledger["balanced"]
    broken = views.accounting({**totals, "labelled": 6, "labels.late": 3}, 4)
    assert broken is not None
    assert not broken["balanced"]
    assert broken["sentence"] == "Does not add up: predictions by +1, labels by -2."
    assert views.accounting({}, 0) is None


def test_drift_rows_are_flagged_by_open_incidents_only() -> None:
    board, registry = Board(), MemoryRegistry()
    fill(board, registry, days=60)
    rows = views.drift_rows(board.models[MODEL], statistic="psi", window="7d", version=1)
    assert rows[0]["name"] == "temp"
    assert rows[0]["what"] == "feature"
    assert 0 <= min(row["share"] for row in rows) <= max(row["share"] for row in rows) <= 100
    assert not any(row["flagged"] for row in rows)
    [*_, news] = board.models[MODEL].incidents.values()
    board.add_alert(structs.replace(news, incident_id="d", kind="data-drift", subject="feature:hour", status="opened"))
    rows = views.drift_rows(board.models[MODEL], statistic="psi", window="7d", version=1)
    assert [row["name"] for row in rows if row["flagged"]] == ["hour"]


@pytest.mark.parametrize(("names", "chosen"), [(["1d", "7d", "1000n"], "7d"), (["1000n"], "1000n"), ([], "")])
def test_the_first_window_shown(names: list[str], chosen: str) -> None:
    assert views.choose_window(names) == chosen


@pytest.mark.parametrize(
    ("report", "figures"),
    [
        ({}, (None, None, None)),
        ({"rows": 5, "primary": {"candidate": 0.7, "champion": None}}, (5, 0.7, None)),
        ({"rows": "many", "primary": 3}, (None, None, None)),
    ],
)
def test_reports_of_any_shape_do_no_harm(report: dict[str, object], figures: tuple[object, ...]) -> None:
    assert views.gate_figures(report) == figures
