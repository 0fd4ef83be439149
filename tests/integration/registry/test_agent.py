"""The registry's agent on the real broker: commands in, events and states out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from agents.config import load_settings
from agents.database.migrate import upgrade
from agents.registry.agent import run
from agents.registry.tables import AuditRow, LedgerRow
from agents.runtime import is_ready
from schemas.codec import decode, encode
from schemas.events import (
    AnyRegistryEvent,
    ApproveVersion,
    ModelPromoted,
    ModelState,
    RegistryCommand,
    RejectVersion,
    RollBackModel,
    SubmitCandidate,
)
from schemas.topics import REGISTRY_COMMANDS, REGISTRY_EVENTS, REGISTRY_STATE
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail, read_all
from tests.support.registries import EVENT_TIME, RegistryWorld
from tests.support.wait import eventually


@pytest.fixture
def agent(kafka: KafkaConfig, tmp_path: Path) -> Iterator[RegistryWorld]:
    """A world whose registry agent runs."""
    ensure_topics(kafka, 1)
    settings = load_settings(home=tmp_path)
    world = RegistryWorld(settings.database, tmp_path)
    upgrade(world.engine)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, kafka, stop))
    thread.start()
    eventually(lambda: is_ready(settings, "registry"), timeout=30)
    yield world
    stop.set()
    thread.join(30)
    world.close()
    assert not thread.is_alive()


def send(kafka: KafkaConfig, *commands: RegistryCommand) -> None:
    with EventProducer(kafka) as producer:
        for command in commands:
            producer.send(REGISTRY_COMMANDS, encode(command), command.model.encode())


def events(kafka: KafkaConfig) -> list[AnyRegistryEvent]:
    records = read_all(kafka, REGISTRY_EVENTS, timeout_s=10)
    return [decode(record.value or b"", AnyRegistryEvent) for record in records]  # type: ignore[arg-type]


def submit(version: int, command_id: str = "c1") -> SubmitCandidate:
    return SubmitCandidate(
        command_id=command_id,
        model="m",
        actor="retraining",
        version=version,
        run_id="r",
        passed=True,
        reason="better",
        at=EVENT_TIME,
    )


def test_commands_are_obeyed_once_and_the_topics_tell_all(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model()
    for _ in range(2):
        with agent.sessions.begin() as session:
            agent.version(session)
    send(kafka, submit(1, "a"), submit(1, "a"), submit(2, "b"), submit(1, "a"))
    send(kafka, RollBackModel(command_id="d", model="m", actor="bea", reason="complaints"))
    eventually(lambda: len(events(kafka)) >= 10, timeout=20)
    published = events(kafka)
    assert published == agent.events(), "what is published is what was recorded, in its order"
    assert [event.epoch for event in published] == list(range(1, len(published) + 1))
    states = [decode(r.value or b"", ModelState) for r in read_all(kafka, REGISTRY_STATE, timeout_s=10)]
    assert states == agent.states()
    assert (states[-1].champion, states[-1].epoch) == (1, published[-1].epoch)
    keys = {record.key for record in read_all(kafka, REGISTRY_EVENTS, timeout_s=10)}
    assert keys == {b"m"}


def test_refused_commands_are_dead_letters_with_the_reason(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model(mode="manual")
    agent.candidate(mode="manual")
    send(
        kafka,
        ApproveVersion(command_id="1", model="nope", actor="bea", version=1),
        RollBackModel(command_id="2", model="m", actor="bea", reason=""),
        RejectVersion(command_id="3", model="m", actor="bea", version=1, reason="no"),
        ApproveVersion(command_id="4", model="m", actor="bea", version=1),
    )
    with EventProducer(kafka) as producer:
        producer.send(REGISTRY_COMMANDS, b'{"type": "MakeCoffee"}', b"m")
    letters = eventually(
        lambda: (found := read_all(kafka, "dlq." + REGISTRY_COMMANDS, timeout_s=10)) and len(found) == 4 and found,
        timeout=20,
    )
    reasons = [dict(letter.headers or ())["__dlq.errors.reason"] for letter in letters]
    assert reasons == [b"not-found", b"transition", b"conflict", b"schema"]


def test_what_others_commit_is_published_within_a_tenth_of_a_second(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model()
    tail = Tail(kafka, [REGISTRY_EVENTS], from_beginning=True)
    delays = []
    try:
        for _ in range(15):
            version, _ = agent.candidate()
            committed = time.monotonic()
            promoted = False
            while not promoted:
                for record in tail.poll(0.5):
                    event = decode(record.value or b"", AnyRegistryEvent)  # type: ignore[arg-type]
                    promoted |= isinstance(event, ModelPromoted) and event.version == version
                assert time.monotonic() - committed < 20
            delays.append(time.monotonic() - committed)
    finally:
        tail.close()
    assert sorted(delays)[len(delays) // 2] <= 0.1, delays


def audit(kafka: KafkaConfig, home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    from agents.cli import app

    for name, value in (
        ("DRIFTLINE_HOME", str(home)),
        ("DRIFTLINE_PREFIX", kafka.prefix),
        ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers),
    ):
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["audit", *arguments])
    return result.exit_code, result.stdout


def test_the_audit_is_compared_with_the_topic(
    agent: RegistryWorld, kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.model()
    agent.candidate()
    eventually(lambda: len(events(kafka)) == len(agent.events()), timeout=30)
    code, said = audit(kafka, tmp_path, monkeypatch, "verify", "--published")
    assert (code, f"{len(agent.events())} published events say the same" in said) == (0, True)
    # Somebody who may write the database takes the last decision back, and the head with it.
    with agent.sessions.begin() as session:
        last = session.get_one(AuditRow, len(agent.events()))
        session.execute(update(LedgerRow).values(epoch=last.epoch - 1, head=last.previous_hash))
        session.delete(last)
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--unpublished")[0] == 0
    code, said = audit(kafka, tmp_path, monkeypatch, "verify")
    assert (code, "was published and is missing" in said) == (1, True)
    # An export is checked by itself.
    assert audit(kafka, tmp_path, monkeypatch, "export", "--output", str(tmp_path / "audit.jsonl"))[0] == 0
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--file", str(tmp_path / "audit.jsonl"))[0] == 0
    text = (tmp_path / "audit.jsonl").read_text()
    (tmp_path / "audit.jsonl").write_text(text.replace('"actor":"ann"', '"actor":"bob"', 1))
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--file", str(tmp_path / "audit.jsonl"))[0] == 1
