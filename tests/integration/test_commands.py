"""Commands on a real broker: what is sent arrives as Driftline expects, what is asked is answered."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from agents.access.signatures import audience_of, check_signature, read_signature
from agents.cli import app
from agents.commands.lines import HEARTBEAT
from agents.commands.sample import write_sample
from schemas import codec, topics
from schemas.events import Alert, InferenceRequest, JournalRecord, Prediction, RetrainRequest
from streams.join.totals import zero
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail, read_all
from streams.kafka.records import Record, dead_letter
from tests.support.gateway import MODEL, estimated, quality

PARTITIONS = 2
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def installation(kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    """The commands' environment: this broker under this prefix, an empty home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTLINE_PREFIX", kafka.prefix)
    monkeypatch.setenv("DRIFTLINE_PARTITIONS", str(PARTITIONS))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    ensure_topics(kafka, PARTITIONS)
    return kafka


def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def told(*arguments: str, stdin: bytes | None = None) -> Any:
    code, out, err = run(*arguments, "--json", stdin=stdin)
    assert code == 0, err
    return json.loads(out)


def alert(incident: str, status: str, model: str = "m") -> Alert:
    return Alert(
        incident_id=incident,
        model=model,
        version=1,
        kind="quality",
        subject="roc_auc",
        segment={"origin": "JFK"},
        severity="warning",
        status=status,
        opened_at=AT,
        closed_at=AT if status == "closed" else None,
        title=f"title of {incident}",
        explanation="because of this",
    )


def send(kafka: KafkaConfig, topic: str, *values: bytes, key: bytes = b"m", partition: int | None = None) -> None:
    with EventProducer(kafka) as producer:
        for value in values:
            producer.send(topic, value, key, None, partition)


def test_topics_are_created_once_and_then_kept(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_PREFIX", kafka.prefix)
    monkeypatch.setenv("DRIFTLINE_PARTITIONS", "3")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    assert {t["action"] for t in told("topics", "--plan")["topics"]} == {"create"}
    assert {t["action"] for t in told("topics")["topics"]} == {"keep"}
    assert {t["action"] for t in told("topics", "--plan")["topics"]} == {"keep"}
    monkeypatch.setenv("DRIFTLINE_PARTITIONS", "4")
    code, _, err = run("topics")
    assert code == 3
    assert "partitions" in err


def test_requests_and_labels_of_one_id_meet_in_one_partition(installation: KafkaConfig, tmp_path: Path) -> None:
    write_sample(tmp_path / "p")
    assert told("produce", "requests", str(tmp_path / "p" / "requests.jsonl"))["records"] == 80
    code, out, _ = run("produce", "ground-truth", "-", stdin=(tmp_path / "p" / "labels.jsonl").read_bytes())
    assert (code, out) == (0, "sent 80 lines (80 records) of ground-truth\n")
    asked = {r.key: r.partition for r in read_all(installation, topics.INFERENCE_REQUESTS)}
    labels = {r.key: r.partition for r in read_all(installation, topics.GROUND_TRUTH)}
    assert asked == labels
    assert set(asked.values()) == {0, 1}


def test_a_wrong_line_stops_the_sending_and_is_named(installation: KafkaConfig, tmp_path: Path) -> None:
    lines = tmp_path / "labels.jsonl"
    good = '{"prediction_id": "a", "event_time_ms": 1, "label": 1}\n'
    lines.write_text(good + good + '{"prediction_id": "b"}\n' + good)
    code, _, err = run("produce", "ground-truth", str(lines))
    assert code == 1
    assert f"{lines}:3" in err
    assert "2 lines before it were sent" in err
    assert len(read_all(installation, topics.GROUND_TRUTH)) == 2
    code, _, _ = run("produce", "ground-truth", str(lines), "--raw", "prediction_id")
    assert code == 0
    assert [r.key for r in read_all(installation, topics.GROUND_TRUTH)].count(b"b") == 1


def test_a_heartbeat_reaches_every_partition_of_both_topics(installation: KafkaConfig) -> None:
    code, out, _ = run("produce", "heartbeat", "--json", stdin=b'{"event_time_ms": 5}\n')
    assert code == 0
    assert json.loads(out)["records"] == 2 * PARTITIONS
    for topic in (topics.PREDICTIONS, topics.GROUND_TRUTH):
        records = read_all(installation, topic)
        assert sorted(r.partition for r in records) == [0, 1]
        assert all(r.key is None and list(r.headers or []) == HEARTBEAT for r in records)


def test_subscribe_prints_what_is_there_and_what_comes(installation: KafkaConfig) -> None:
    send(installation, topics.ALERTS, codec.encode(alert("i1", "opened")))
    send(installation, topics.ALERTS, codec.encode(alert("i2", "opened", "other")), key=b"other")
    code, out, _ = run("subscribe", "--from-beginning", "--timeout", "1", "--model", "m")
    assert code == 0
    assert [json.loads(line)["incident_id"] for line in out.splitlines()] == ["i1"]
    later = threading.Timer(1.0, lambda: send(installation, topics.ALERTS, codec.encode(alert("i3", "opened"))))
    later.start()
    _, out, _ = run("subscribe", "-n", "1", "--timeout", "15")
    later.join()
    assert json.loads(out)["incident_id"] == "i3"


def test_subscribe_shows_dead_letters_as_they_were_received(installation: KafkaConfig) -> None:
    send(installation, topics.dead_letter_topic(topics.GROUND_TRUTH), b"\xff{broken", key=b"k")
    _, out, _ = run("subscribe", "dlq.ground-truth", "--from-beginning", "-n", "1", "--timeout", "10", "--envelope")
    shown = json.loads(out)
    assert (shown["key"], shown["value"], shown["offset"]) == ("k", "\ufffd{broken", 0)


def test_alerts_lists_the_newest_news_of_each_incident(installation: KafkaConfig) -> None:
    news = [alert("i1", "opened"), alert("i2", "opened"), alert("i1", "closed")]
    send(installation, topics.ALERTS, *map(codec.encode, news))
    assert [(i["incident_id"], i["status"]) for i in told("alerts")["incidents"]] == [
        ("i2", "opened"),
        ("i1", "closed"),
    ]
    assert [i["incident_id"] for i in told("alerts", "--open")["incidents"]] == ["i2"]
    assert told("alerts", "--model", "nobody") == {"incidents": []}
    _, out, _ = run("alerts")
    assert "because of this" in out
    assert "origin = JFK" in out


class Server(threading.Thread):
    """Answers each request as the serving agent would; refuses those of the model "nobody"."""

    def __init__(self, kafka: KafkaConfig) -> None:
        super().__init__()
        self._kafka = kafka
        self._tail = Tail(kafka, [topics.INFERENCE_REQUESTS], False)
        self.stop = threading.Event()

    def run(self) -> None:
        with EventProducer(self._kafka) as producer, self._tail:
            while not self.stop.is_set():
                for record in self._tail.poll(0.1):
                    self._answer(producer, record)

    def _answer(self, producer: EventProducer, record: Record) -> None:
        request = codec.decode(record.value or b"", InferenceRequest)
        if request.model == "nobody":
            output = dead_letter(record, "unknown-model", "no model 'nobody' is registered\nand more", "serving")
            producer.send(output.topic, output.value, output.key, output.headers)
            return
        answer = Prediction(
            prediction_id=request.request_id,
            model=request.model,
            version=3,
            event_time_ms=request.event_time_ms,
            features=request.features,
            prediction=1,
            probability=0.75,
        )
        producer.send(topics.PREDICTIONS, codec.encode(answer), record.key)


def test_predict_waits_for_its_own_answer(installation: KafkaConfig) -> None:
    server = Server(installation)
    server.start()
    try:
        answer = told("predict", "m", "--features", '{"a": 1}', "--id", "mine", "--event-time", "2026-01-01")
        assert answer["prediction"]["prediction_id"] == "mine"
        assert answer["prediction"]["event_time_ms"] == codec.to_ms(AT)
        assert answer["prediction"]["version"] == 3
        code, _, err = run("predict", "nobody", "--features", "{}")
        assert code == 3
        assert "no model 'nobody' is registered\n  →" in err
    finally:
        server.stop.set()
        server.join(10)


def test_produce_waits_for_the_answers(installation: KafkaConfig, tmp_path: Path) -> None:
    lines = [
        codec.encode(InferenceRequest(request_id=f"r{n}", model="m" if n else "nobody", event_time_ms=n, features={}))
        for n in range(5)
    ]
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"\n".join(lines))
    code, _, err = run("produce", "requests", str(file), "--wait", "1")
    assert code == 3
    assert "5 requests were not answered within 1 s" in err
    server = Server(installation)
    server.start()
    try:
        sent = told("produce", "requests", str(file), "--wait", "20")
    finally:
        server.stop.set()
        server.join(10)
    assert (sent["answered"], sent["refused"]) == (4, 1)


def test_predict_gives_up_in_time_and_says_where_to_look(installation: KafkaConfig) -> None:
    # Long enough for the request to be acknowledged on a busy machine: that is the other way to give up.
    code, _, err = run("predict", "m", "--features", "{}", "--timeout", "5")
    assert code == 3
    assert "no answer within 5 s" in err
    assert "driftline status" in err


def commit(kafka: KafkaConfig) -> None:
    """Journal records as the join writes them: two of one partition, one of the other."""
    for partition, predictions in ((0, 3), (0, 5), (1, 2)):
        record = JournalRecord(
            partition=partition,
            slices={},
            watermark_ms=codec.to_ms(AT),
            topic_watermarks_ms={},
            idle={},
            now_ms=0,
            registry_epoch=0,
            low_water={},
            journal_low_water=0,
            totals=zero() | {"predictions": predictions, "pending": predictions, "predictions.skipped": 1},
            partitions=PARTITIONS,
        )
        key = f"join-{partition}".encode()
        send(kafka, topics.MONITORING_JOURNAL, codec.encode(record), key=key, partition=partition)


def test_status_sums_the_newest_journal_of_every_partition(installation: KafkaConfig) -> None:
    commit(installation)
    send(installation, topics.ALERTS, codec.encode(alert("i1", "opened")))
    send(installation, topics.INFERENCE_REQUESTS, b"{}", b"{}")
    found = told("status")
    assert found["problems"] == []
    assert found["accounting"]["predictions"] == 7
    assert found["skipped_predictions"] == 2
    assert found["lag"]["serving"] == 2
    assert found["lag"]["registry"] == 0
    assert found["models"] == []
    assert found["supervised"] is False
    assert [i["incident_id"] for i in found["open_incidents"]] == ["i1"]
    code, out, _ = run("status")
    assert code == 0
    assert "2 predictions name a model or version that is not registered" in out
    assert "driftline register" in out


def test_estimates_are_shown_by_status_and_report_with_interval_and_trust(installation: KafkaConfig) -> None:
    assert told("models") == {"models": [], "next": None}
    register(MODEL)
    series = [
        quality(1, 1, 0.7, segment={"origin": "JFK"}), estimated(1, 1, 0.72, realised=0.7),
        quality(1, 1, 0.71), estimated(2, 1, 0.65), estimated(2, 1, 0.61, segment={"origin": "JFK"}, trust=None),
        quality(2, 1, 0.6, window="1000n"),
    ]  # fmt: skip
    send(installation, topics.QUALITY_METRICS, *map(codec.encode, series), b"{no json", key=MODEL.encode())
    [shown] = told("status")["estimates"]
    assert (shown["model"], shown["metric"], shown["value"], shown["low"]) == (MODEL, "roc_auc", 0.65, 0.55)
    assert (shown["trust"], shown["segment"], shown["realised"]) == (0.7, "", None)
    found = told("report", MODEL)
    assert [(row["segment"], row["metrics"]["roc_auc"]) for row in found["quality"]] == [
        ("", 0.71),
        ("origin=JFK", 0.7),
    ]
    assert [(row["segment"], row["value"], row["trust"]) for row in found["estimates"]] == [
        ("", 0.65, 0.7), ("origin=JFK", 0.61, None),
    ]  # fmt: skip
    assert [row["window"] for row in told("report", MODEL, "--window", "1000n")["quality"]] == ["1000n"]
    for command in (("status",), ("report", MODEL)):
        _, out, _ = run(*command)
        assert "0.5500 – 0.7500" in out
        assert "0.70" in out
    code, _, err = run("report", MODEL, "--window", "9d")
    assert (code, "seen: 1d, 1000n" in err) == (2, True)
    code, _, err = run("report", "nobody")
    assert (code, "driftline models" in err) == (1, True)


def test_retrain_asks_as_of_event_time_not_of_the_clock(installation: KafkaConfig) -> None:
    code, _, err = run("retrain", "m")
    assert code == 1
    assert "m" in err
    assert read_all(installation, topics.RETRAIN_REQUESTS) == []
    register("m")
    commit(installation)
    told("retrain", "m", "--reason", "try it")
    told("retrain", "m", "--as-of", "2025-06-01")
    first, second = (
        codec.decode(r.value or b"", RetrainRequest) for r in read_all(installation, topics.RETRAIN_REQUESTS)
    )
    assert (first.trigger, first.reason, first.as_of) == ("manual", "try it", AT)
    assert second.as_of == datetime(2025, 6, 1, tzinfo=UTC)
    assert first.request_id != second.request_id


def register(model: str) -> None:
    """A model without a version."""
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings
    from agents.database.engine import make_engine, session_factory
    from agents.registry.service import Registry
    from tests.support.gateway import SPECIFICATION

    settings = load_settings()
    registry = Registry(session_factory(make_engine(settings.database)), ArtifactStore.of(settings))
    with registry.sessions.begin() as session:
        registry.register_model(session, SPECIFICATION.replace("flight-delay", model), "test")


def test_query_of_an_empty_archive_has_its_views_and_cannot_write(installation: KafkaConfig, tmp_path: Path) -> None:
    for view in ("predictions", "ground_truth", "quality_metrics", "drift_metrics", "alerts"):
        assert told("query", f"SELECT count(*) AS n FROM {view}") == {
            "columns": ["n"],
            "rows": [[0]],
            "truncated": False,
        }
    assert told("query", "SELECT * FROM range(5)", "--limit", "2") == {
        "columns": ["range"],
        "rows": [[0], [1]],
        "truncated": True,
    }
    for sql, said in (
        (f"COPY (SELECT 1) TO '{tmp_path}/x.csv'", "one statement that only reads"),
        ("SELECT * FROM read_text('/etc/hostname')", "views: predictions"),
        ("SELEC", "views: predictions"),
    ):
        code, _, err = run("query", sql)
        assert code == 2, sql
        assert said in err
    assert not (tmp_path / "x.csv").exists()


def test_a_command_that_somebody_signed_is_sent_as_the_agents_believe_it(
    installation: KafkaConfig, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    command = b'{"type": "RejectVersion",  "command_id": "7", "model": "m", "actor": "ann", "version": 2, "reason": ""}'
    asked = b'{"request_id": "8", "model": "m", "trigger": "manual", "reason": "x", "as_of": "2026-01-01T00:00:00Z"}'
    for topic, value in ((topics.REGISTRY_COMMANDS, command), (topics.RETRAIN_REQUESTS, asked)):
        done = told("principals", "sign", "-", "--key", str(tmp_path / "key.pem"), "--send", stdin=value)
        (record,) = read_all(installation, topic)
        assert (record.key, record.value) == (b"m", value)
        check_signature(
            *(read_signature(record.headers), public, audience_of(installation, topic)),
            *(record.key, record.value or b"", record.timestamp_ms),
        )
        assert {name: text.encode() for name, text in done["headers"].items()} == dict(record.headers or ())
    audience = "another/registry-commands"
    printed = told("principals", "sign", "-", "--key", "key.pem", "--audience", audience, stdin=command)
    assert (printed["sent"], printed["headers"]["driftline-audience"]) == (False, audience)
    for arguments, value, said in (
        (["--send", "--audience", audience], command, "it is refused here"),
        ([], b'{"type": "Destroy"}', "neither a command nor a request"),
        (["--key", "none.pem"], command, "No such file"),
    ):
        code, _, err = run("principals", "sign", "-", "--key", "key.pem", *arguments, stdin=value)
        assert code == 2
        assert said in err
    assert len(read_all(installation, topics.REGISTRY_COMMANDS)) == 1
