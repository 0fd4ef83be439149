"""The notifying agent on a real broker: a signed webhook arrives although another receiver hangs."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from agents.config import load_settings
from agents.database.engine import make_engine, session_factory
from agents.notifying import agent
from agents.notifying.tables import DeliveryRow
from schemas.codec import cloudevent_headers, encode
from schemas.errors import UnsafeSettingError
from schemas.topics import ALERTS
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.databases import prepare
from tests.support.receiver import receiving
from tests.support.wait import eventually
from tests.unit.agents.notifying.test_alertmanager import incident_row
from tests.unit.agents.notifying.test_logic import ALERT


def test_alerts_become_log_lines_and_signed_webhooks(
    kafka: KafkaConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_topics(kafka, 1)
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    prepare(engine)
    sessions = session_factory(engine)
    with sessions.begin() as session:
        session.add(incident_row("i0"))
    with receiving() as good, receiving("hang") as hanging, receiving("200") as apprise, receiving("200") as manager:
        settings = load_settings(
            home=tmp_path,
            webhook_urls=[f"http://127.0.0.1:{hanging.port}/", f"http://127.0.0.1:{good.port}/hook"],
            webhook_allow=["127.0.0.1"],
            notify_urls=[f"json://127.0.0.1:{apprise.port}/"],
            alertmanager_urls=[f"http://127.0.0.1:{manager.port}/am"],
        )
        stop = threading.Event()
        thread = threading.Thread(target=agent.run, args=(settings, kafka, stop))
        with caplog.at_level(logging.INFO, logger="driftline.notifying"):
            thread.start()
            try:
                with EventProducer(kafka) as producer:
                    producer.send(ALERTS, b"{poison", b"m")
                    for n in range(3):
                        alert = msgspec.structs.replace(ALERT, incident_id=f"i{n}")
                        for _ in range(2):  # the outbox may send an event twice
                            headers = cloudevent_headers(alert, event_id=f"e{n}", source="/driftline/alerting")
                            producer.send(ALERTS, encode(alert), b"m", headers)
                eventually(
                    lambda: (
                        (len(good.requests) == len(apprise.requests) == 3 and hanging.requests and manager.requests)
                        or not thread.is_alive()
                    ),
                    timeout=30,
                )
                # Within a second of the alert, not of the minute.
                with sessions.begin() as session:
                    session.add(incident_row("i9", subject="brier"))
                with EventProducer(kafka) as producer:
                    headers = cloudevent_headers(ALERT, event_id="e9", source="/driftline/alerting")
                    producer.send(ALERTS, encode(msgspec.structs.replace(ALERT, incident_id="i9")), b"m", headers)
                eventually(lambda: len(json.loads(manager.requests[-1][1])) == 2 or not thread.is_alive(), timeout=20)
            finally:
                stop.set()
                hanging.stopped.set()
                thread.join(30)
        assert not thread.is_alive()
    secret = (tmp_path / "keys" / "webhook.secret").read_text()
    for headers, body in good.requests:
        Webhook(secret).verify(body, headers)
    assert {"e0", "e1", "e2"} <= {headers["webhook-id"] for headers, _ in good.requests} <= {"e0", "e1", "e2", "e9"}
    assert json.loads(good.requests[0][1])["data"]["title"] == ALERT.title
    assert len([r for r in caplog.records if "alert opened" in r.message]) == 4
    assert secret not in caplog.text
    assert all(ALERT.title in json.loads(body)["title"] for _, body in apprise.requests)
    with session_factory(engine)() as session:
        rows = session.scalars(select(DeliveryRow)).all()
    assert len(rows) == 12
    assert {row.status for row in rows if str(good.port) in row.label or row.channel == "apprise"} <= {
        "delivered",
        "pending",
    }
    engine.dispose()


def test_a_webhook_without_tls_is_refused_at_start(kafka: KafkaConfig, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, webhook_urls=["http://example.com/secret"])
    with pytest.raises(UnsafeSettingError, match="not https"):
        agent.run(settings, kafka, threading.Event())
