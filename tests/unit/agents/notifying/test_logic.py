"""Targets, pauses and order of deliveries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from agents.notifying.logic import (
    LONGEST_PAUSE_S,
    Target,
    Wanted,
    due,
    message,
    pause_s,
    retrain_body,
    retrain_message,
    webhook_body,
)
from schemas.codec import utc
from schemas.events import Alert, RetrainRequest
from tests.unit.agents.alerting.test_fleet import Fleet, missing

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALERT = Alert(
    incident_id="i1",
    model="m",
    version=1,
    kind="quality",
    subject="roc_auc",
    segment={"origin": "EWR"},
    severity="critical",
    status="opened",
    opened_at=utc(0),
    closed_at=None,
    title="m v1: roc_auc fell to 0.6",
    explanation="roc_auc fell.",
    links={"page": "http://127.0.0.1/"},
)


@dataclass
class Row:
    incident_id: str
    next_at: datetime = NOW
    lease_until: datetime | None = None


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([], []),
        ([Row("a"), Row("b")], [0, 1]),
        ([Row("a"), Row("a")], [0]),
        ([Row("a", NOW + timedelta(seconds=1)), Row("a"), Row("b")], [2]),
        ([Row("a", NOW, NOW + timedelta(seconds=1))], []),
        ([Row("a", NOW, NOW)], [0]),
    ],
)
def test_messages_of_one_incident_go_out_in_order(rows: list[Row], chosen: list[int]) -> None:
    assert due(rows, NOW) == [rows[index] for index in chosen]


def test_pauses_grow_to_a_limit_and_are_spread() -> None:
    pauses = [pause_s(attempts, "e") for attempts in range(1, 40)]
    for attempts, pause in enumerate(pauses[:10], 1):
        assert 0.8 * 2**attempts <= pause <= 1.2 * 2**attempts
    assert max(pauses) <= LONGEST_PAUSE_S * 1.2
    assert len({pause_s(3, f"e{n}") for n in range(50)}) == 50


@pytest.mark.parametrize(
    ("target", "label"),
    [
        (Target("https://hooks.example.com/T000/secret?token=s", "webhook"), "https://hooks.example.com"),
        (Target("slack://tokenA/tokenB", "apprise"), "slack://…"),
        (Target("mailto://me:password@example.com", "apprise"), "mailto://…"),
    ],
)
def test_labels_show_no_secret(target: Target, label: str) -> None:
    assert target.label == label
    assert "secret" not in repr(target)
    assert "token" not in repr(target)


def test_the_payload_is_a_standard_webhook() -> None:
    body = json.loads(webhook_body(ALERT, NOW))
    assert (body["type"], body["timestamp"]) == ("alert.opened", "2026-01-01T00:00:00Z")
    assert body["data"]["incident_id"] == "i1"


def test_the_message_says_what_and_where() -> None:
    title, text = message(ALERT)
    assert title == "[critical opened] m v1: roc_auc fell to 0.6"
    assert "roc_auc fell." in text
    assert "1970-01-01T00:00:00Z" in text
    assert text.endswith("http://127.0.0.1/")


def test_a_message_names_causes_and_whom_an_incident_of_many_models_hits() -> None:
    fleet = Fleet(20)
    for model in "abc":
        fleet.take(missing(model, 1))
    (shared,) = fleet.fleet_incidents().values()
    title, text = message(shared)
    assert title == "[warning opened] 3 models: temp is unusable"
    assert "blast radius: 3 models" in text
    assert "a v1: data-quality, warning, value 0.9" in text
    own = next(alert for alert in fleet.alerts if alert.model == "a")
    assert "blast radius" not in message(own)[1]


def test_a_request_for_a_successor_says_which_version_is_to_be_followed() -> None:
    request = RetrainRequest(
        request_id="r1", model="churn", trigger="quality", reason="accuracy fell", as_of=utc(0), incident_id="i1"
    )
    wanted = Wanted(request=request, version="2024-11-rc2", number=2)
    assert json.loads(retrain_body(wanted, NOW)) == {
        "type": "retrain.requested",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {
            "request_id": "r1",
            "model": "churn",
            "trigger": "quality",
            "reason": "accuracy fell",
            "incident_id": "i1",
            "requested_by": "alerting",
            "as_of": "1970-01-01T00:00:00Z",
            "changed_at": None,
            "version": "2024-11-rc2",
            "version_number": 2,
        },
    }
    title, text = retrain_message(wanted)
    assert "churn (version 2024-11-rc2)" in title
    assert "accuracy fell" in text
