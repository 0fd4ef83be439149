"""What an Alertmanager is told: everything that is open, again and again, and the end of what ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from agents.alerting.tables import IncidentRow
from agents.database.base import Base
from agents.database.engine import Sessions, make_engine, session_factory
from agents.notifying.alertmanager import BATCH, RESOLVED, VALID, Board, Teller, open_of, parse_target
from agents.notifying.logic import Target
from schemas.codec import iso
from schemas.errors import UnsafeSettingError
from tests.support.receiver import Receiver, receiving
from tests.support.wait import eventually

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OPENED = NOW - timedelta(days=2)


def incident_row(incident_id: str = "i1", **over: Any) -> IncidentRow:
    values: dict[str, Any] = {
        "model": "m", "version": 3, "kind": "quality", "subject": "roc_auc", "segment": "origin=EWR",
        "severity": "warning", "status": "opened", "opened_at": OPENED, "closed_at": None,
        "title": "m v3: roc_auc fell to 0.6", "explanation": "roc_auc fell.", "evidence": {},
    }  # fmt: skip
    return IncidentRow(incident_id=incident_id, **{**values, **over})


def test_an_incident_in_the_words_of_an_alertmanager() -> None:
    causes = [{"subject": "feature:temp", "statistic": "psi", "value": 7.3, "importance": 0.4, "weight": 0.3}]
    (alert,) = Board("http://host/").round([open_of(incident_row(evidence={"causes": causes}))], NOW)
    assert alert["labels"] == {
        "alertname": "DriftlineIncident", "model": "m", "version": "3", "kind": "quality", "subject": "roc_auc",
        "segment": "origin=EWR", "severity": "warning",
    }  # fmt: skip
    assert alert["annotations"]["summary"] == "m v3: roc_auc fell to 0.6"
    assert alert["annotations"]["incident_id"] == "i1"
    assert alert["annotations"]["description"].startswith("roc_auc fell.\ncauses: 1. temp")
    assert (alert["startsAt"], alert["endsAt"]) == (iso(OPENED), iso(NOW + VALID))
    assert alert["generatorURL"] == "http://host/"


def test_an_incident_of_many_models_has_no_version_and_no_segment() -> None:
    (alert,) = Board().round([open_of(incident_row(model="*", version=0, segment=""))], NOW)
    assert alert["labels"].keys() == {"alertname", "model", "kind", "subject", "severity"}
    assert "generatorURL" not in alert


def test_what_fires_is_sent_again_with_a_later_end_and_the_same_identity() -> None:
    board = Board()
    (first,) = board.round([open_of(incident_row())], NOW)
    (again,) = board.round([open_of(incident_row(title="m v3: roc_auc fell to 0.5"))], NOW + timedelta(minutes=1))
    assert (again["labels"], again["startsAt"]) == (first["labels"], first["startsAt"])
    assert again["endsAt"] == iso(NOW + timedelta(minutes=1) + VALID)
    assert again["annotations"]["summary"] != first["annotations"]["summary"]


def test_what_ended_is_told_for_a_while_and_what_came_back_fires() -> None:
    board, minute = Board(), timedelta(minutes=1)
    board.round([open_of(incident_row())], NOW)
    for later in (minute, 2 * minute):
        (ended,) = board.round([], NOW + later)
        assert (ended["endsAt"], ended["startsAt"]) == (iso(NOW + minute), iso(OPENED))
    (back,) = board.round([open_of(incident_row())], NOW + 3 * minute)
    assert back["endsAt"] == iso(NOW + 3 * minute + VALID)
    board.round([], NOW + 4 * minute)
    assert len(board.round([], NOW + 4 * minute + RESOLVED - minute)) == 1
    assert board.round([], NOW + 4 * minute + RESOLVED) == []


def test_more_severe_is_another_alert_there_and_the_first_one_ends() -> None:
    board = Board()
    board.round([open_of(incident_row())], NOW)
    fires, ended = board.round([open_of(incident_row(severity="critical"))], NOW)
    assert (fires["labels"]["severity"], ended["labels"]["severity"]) == ("critical", "warning")
    assert ended["endsAt"] == iso(NOW)


def test_event_time_ahead_of_the_clock_begins_now() -> None:
    (alert,) = Board().round([open_of(incident_row(opened_at=NOW + timedelta(hours=9)))], NOW)
    assert alert["startsAt"] == iso(NOW)


@pytest.mark.parametrize(
    ("url", "path", "port", "header"),
    [
        ("http://10.0.0.7:9093", "/api/v2/alerts", 9093, None),
        ("https://host.internal/prefix/", "/prefix/api/v2/alerts", 443, None),
        ("https://ann:s%40crecy@host.internal", "/api/v2/alerts", 443, "Basic YW5uOnNAY3JlY3k="),
        ("http://ann:secrecy@localhost:9093", "/api/v2/alerts", 9093, "Basic YW5uOnNlY3JlY3k="),
    ],
)
def test_addresses(url: str, path: str, port: int, header: str | None) -> None:
    endpoint, credentials = parse_target(url)
    assert (endpoint.path, endpoint.port, endpoint.trusted) == (path, port, True)
    assert (credentials.header if credentials else None) == header
    assert header is None or header not in repr(credentials)


@pytest.mark.parametrize("url", ["host:9093", "ftp://host", "http://ann:secrecy@host.internal:9093", "http://"])
def test_addresses_that_are_refused_show_no_secret(url: str) -> None:
    with pytest.raises(UnsafeSettingError) as error:
        parse_target(url)
    assert "secrecy" not in str(error.value)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    engine = make_engine(f"sqlite:///{tmp_path / 'i.db'}")
    Base.metadata.create_all(engine, tables=[IncidentRow.__table__])
    yield session_factory(engine)
    engine.dispose()


def told(receiver: Receiver) -> list[list[dict[str, Any]]]:
    return [json.loads(body) for _, body in receiver.requests]


def test_a_server_gets_everything_that_is_open_in_batches(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.add_all(incident_row(f"i{n:03}", model=f"m{n:03}") for n in range(BATCH + 3))
        session.add(incident_row("closed", model="over", status="closed"))
    with receiving("200") as receiver:
        teller = Teller(Target(f"http://ann:secrecy@127.0.0.1:{receiver.port}", "alertmanager"), sessions)
        assert teller.tell() == BATCH + 3
        with sessions.begin() as session:
            session.execute(update(IncidentRow).where(IncidentRow.incident_id == "i000").values(status="closed"))
        assert teller.tell() == BATCH + 3
    assert [len(batch) for batch in told(receiver)] == [BATCH, 3, BATCH, 3]
    headers, _ = receiver.requests[0]
    assert (headers["authorization"], headers["content-type"]) == ("Basic YW5uOnNlY3JlY3k=", "application/json")
    ended = told(receiver)[-1][-1]
    assert ended["labels"]["model"] == "m000"
    assert ended["endsAt"] <= iso(datetime.now(UTC))


def test_a_server_that_refuses_is_said_once_and_without_its_secrets(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.notifying.alertmanager.AGAIN_S", 0.02)
    with sessions.begin() as session:
        session.add(incident_row())
    with caplog.at_level(logging.INFO, logger="driftline.notifying"), receiving("503") as receiver:
        target = Target(f"http://ann:secrecy@127.0.0.1:{receiver.port}/hidden", "alertmanager")
        teller = Teller(target, sessions)
        teller.start()
        try:
            eventually(lambda: len(receiver.requests) >= 3, timeout=20)
            receiver.behaviour = "200"
            eventually(lambda: "is told again" in caplog.text, timeout=20)
            before = len(receiver.requests)
            teller.changed()
            eventually(lambda: len(receiver.requests) > before, timeout=20)
        finally:
            teller.stop(5.0)
    assert caplog.text.count("is not told what fires: answered 503") == 1
    for secret in ("secrecy", "ann", "hidden", "YW5u"):
        assert secret not in caplog.text
    assert "secrecy" not in repr(target)
