"""The registry's agent on the real broker: commands in, events and states out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from agents.access.logic import Grant, local_principal
from agents.access.signatures import CommandSigner, audience_of, own_ring
from agents.access.signers import Signers
from agents.config import load_settings
from agents.database.outbox import OutboxRelay, OutboxRow
from agents.registry import approvals
from agents.registry.agent import run
from agents.registry.logic import replay
from agents.registry.tables import AuditRow, LedgerRow, ModelRow, TagRow
from agents.runtime import is_ready
from agents.signing import KeyRing
from schemas.codec import decode, encode
from schemas.events import (
    AnyRegistryEvent,
    ApprovalLapsed,
    ApproveVersion,
    CommandRefused,
    ModelPromoted,
    ModelRolledBack,
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
from streams.kafka.reader import read_all
from tests.support.databases import prepare
from tests.support.registries import EVENT_TIME, RegistryWorld
from tests.support.wait import eventually


@pytest.fixture
def agent(kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryWorld]:
    """A world whose registry agent runs."""
    ensure_topics(kafka, 1)
    settings = load_settings(home=tmp_path)
    world = RegistryWorld(settings.database, tmp_path)
    prepare(world.engine)
    monkeypatch.setattr("agents.registry.agent.LAPSE_EVERY_S", 0.5)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, kafka, stop))
    thread.start()
    eventually(lambda: is_ready(settings, "registry"), timeout=30)
    yield world
    stop.set()
    thread.join(30)
    world.close()
    assert not thread.is_alive()


def send(kafka: KafkaConfig, signer: CommandSigner | None, *commands: RegistryCommand) -> None:
    with EventProducer(kafka) as producer:
        for command in commands:
            value, key = encode(command), command.model.encode()
            producer.send(REGISTRY_COMMANDS, value, key, signer.headers(key, value) if signer is not None else None)


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


def signers(world: RegistryWorld, kafka: KafkaConfig) -> tuple[CommandSigner, CommandSigner]:
    """Who signs as the agents of this home, and as bea, who approves."""
    audience = lambda: audience_of(kafka)  # noqa: E731
    bea = KeyRing(world.folder / "bea")
    with world.sessions.begin() as session:
        by = local_principal("root")
        Signers().add(session, "bea", bea.public_pem(), by=by, grant=Grant("approver"))
    return CommandSigner(own_ring(world.folder), audience), CommandSigner(bea, audience)


def test_what_nobody_signed_is_refused_told_and_the_stream_goes_on(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model()
    with agent.sessions.begin() as session:
        agent.version(session)
    system, _ = signers(agent, kafka)
    send(kafka, None, submit(1, "forged"))
    send(kafka, system, submit(1, "real"))
    told = eventually(lambda: (found := events(kafka)) and isinstance(found[-1], ModelPromoted) and found, timeout=20)
    (refused,) = (event for event in told if isinstance(event, CommandRefused))
    assert (refused.command, refused.command_id, refused.reason) == ("SubmitCandidate", "forged", "unsigned")
    promoted = told[-1]
    assert (promoted.actor, promoted.principal) == ("policy:auto", "system:agents")
    (letter,) = eventually(lambda: read_all(kafka, "dlq." + REGISTRY_COMMANDS, timeout_s=10), timeout=20)
    assert dict(letter.headers or ())["__dlq.errors.reason"] == b"unsigned"


def test_commands_are_obeyed_once_and_the_topics_tell_all(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model()
    for _ in range(2):
        with agent.sessions.begin() as session:
            agent.version(session)
    system, bea = signers(agent, kafka)
    send(kafka, system, submit(1, "a"), submit(1, "a"), submit(2, "b"), submit(1, "a"))
    send(kafka, bea, RollBackModel(command_id="d", model="m", actor="bea", reason="complaints"))
    eventually(lambda: isinstance(events(kafka)[-1], ModelRolledBack), timeout=20)
    published = events(kafka)
    assert published == agent.events(), "what is published is what was recorded, in its order"
    assert [event.epoch for event in published] == list(range(1, len(published) + 1))
    assert [e.principal for e in published if isinstance(e, ModelRolledBack)] == ["signer:bea"]
    states = [decode(r.value or b"", ModelState) for r in read_all(kafka, REGISTRY_STATE, timeout_s=10)]
    assert states == agent.states()
    assert (states[-1].champion, states[-1].epoch) == (1, published[-1].epoch)
    keys = {record.key for record in read_all(kafka, REGISTRY_EVENTS, timeout_s=10)}
    assert keys == {b"m", b"*"}, "the model, and the installation where it is about who may what"


def test_refused_commands_are_dead_letters_with_the_reason(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    agent.model(mode="manual")
    agent.candidate(mode="manual")
    _, bea = signers(agent, kafka)
    send(
        kafka,
        bea,
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


def test_an_altered_file_is_refused_told_and_the_command_can_be_sent_again(
    agent: RegistryWorld, kafka: KafkaConfig
) -> None:
    agent.model(mode="manual")
    agent.candidate(mode="manual")
    _, bea = signers(agent, kafka)
    with agent.readers() as session:
        file = Path(agent.store.path(agent.registry.version(session, "m", 1).artifact))
    whole = file.read_bytes()
    file.write_bytes(b"other bytes")
    command = ApproveVersion(command_id="1", model="m", actor="bea", version=1)
    send(kafka, bea, command)
    (letter,) = eventually(lambda: read_all(kafka, "dlq." + REGISTRY_COMMANDS, timeout_s=10), timeout=20)
    assert dict(letter.headers or ())["__dlq.errors.reason"] == b"artifact"
    (refused,) = (event for event in agent.events() if isinstance(event, CommandRefused))
    assert (refused.command_id, refused.reason, refused.principal) == ("1", "artifact", "signer:bea")
    file.write_bytes(whole)
    send(kafka, bea, command)
    eventually(lambda: agent.champion() == 1, timeout=20)


def test_a_new_consumer_rebuilds_the_whole_state_from_either_topic(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    """The newest record of each key of `registry-state`, and all of `registry-events`, say what the database says."""
    for name in ("a", "b", "c"):
        agent.model(name, mode="manual" if name == "b" else "auto")
        for passed in (True, False, True):
            agent.candidate(name, passed=passed, mode="manual" if name == "b" else "auto")
    with agent.sessions.begin() as session:
        agent.registry.approve(session, "b", 1, "bea")
        agent.registry.rollback(session, "a", actor="bea", reason="x")
        approvals.archive(agent.registry, session, "a", 2, actor="bea", reason="x")
    expected = len(agent.events())
    published = eventually(lambda: (found := events(kafka)) and len(found) >= expected and found, timeout=20)
    states: dict[str, ModelState] = {}
    for record in read_all(kafka, REGISTRY_STATE, timeout_s=10):
        states[(record.key or b"").decode()] = decode(record.value or b"", ModelState)
    with agent.readers() as session:
        for name in ("a", "b", "c"):
            champion = agent.registry.champion(session, name)
            stages = {each.version: each.stage for each in agent.registry.versions(session, name)}
            assert {each.version: each.stage for each in states[name].versions} == stages
            assert states[name].champion == (champion.version if champion else None)
            told = replay(event for event in published if event.model == name)
            assert (told.champion, told.challenger, told.stages) == (
                states[name].champion, states[name].challenger, stages,
            )  # fmt: skip


def test_a_question_that_nobody_answers_lapses_by_itself(agent: RegistryWorld, kafka: KafkaConfig) -> None:
    """The registry agent looks by itself."""
    agent.model(mode="manual", expires="1s")
    agent.candidate(mode="manual", expires="1s")
    lapsed = eventually(
        lambda: (found := events(kafka)) and isinstance(found[-1], ApprovalLapsed) and found, timeout=40
    )
    assert (lapsed[-1].principal, lapsed[-1].actor) == ("system:expiry", "policy:expiry")


def test_what_others_commit_is_published_by_the_next_look(
    agent: RegistryWorld, kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the outbox is looked at twenty times a second, whoever wrote into it."""
    looks: list[int] = []
    publish = OutboxRelay.publish_pending

    def looked(relay: OutboxRelay) -> int:
        looks.append(1)
        return publish(relay)

    waits: list[float | None] = []
    wait = threading.Event.wait

    def waited(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "relay":
            waits.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(OutboxRelay, "publish_pending", looked)
    monkeypatch.setattr(threading.Event, "wait", waited)
    agent.model()
    for _ in range(5):
        agent.candidate()
        committed = len(looks)
        # One may have been under way; the one after it is over when the next begins.
        eventually(lambda wanted=committed + 2: len(looks) >= wanted, timeout=20)
        with agent.readers() as session:
            assert session.query(OutboxRow).filter(OutboxRow.published_at.is_(None)).count() == 0
    assert sum(isinstance(event, ModelPromoted) for event in events(kafka)) == 5
    assert waits
    assert max(timeout or 60 for timeout in waits) <= 0.05


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
    with agent.sessions.begin() as session:
        agent.registry.tag(session, "m", None, {"city": "nyc"}, [], "ann")
    eventually(lambda: len(events(kafka)) == len(agent.events()), timeout=30)
    code, said = audit(kafka, tmp_path, monkeypatch, "verify", "--published")
    assert (code, f"{len(agent.events())} published events say the same" in said) == (0, True)
    # Somebody who may write the database takes the last change back everywhere, and the head with it.
    with agent.sessions.begin() as session:
        last = session.get_one(AuditRow, len(agent.events()))
        session.execute(update(LedgerRow).values(epoch=last.epoch - 1, head=last.previous_hash))
        session.delete(last)
        session.execute(delete(TagRow))
        session.execute(update(ModelRow).values(epoch=last.epoch - 1))
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--unpublished")[0] == 0
    code, said = audit(kafka, tmp_path, monkeypatch, "verify")
    assert (code, "was published and is missing" in said) == (1, True)
    # An export is checked by itself.
    assert audit(kafka, tmp_path, monkeypatch, "export", "--output", str(tmp_path / "audit.jsonl"))[0] == 0
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--file", str(tmp_path / "audit.jsonl"))[0] == 0
    text = (tmp_path / "audit.jsonl").read_text()
    (tmp_path / "audit.jsonl").write_text(text.replace('"actor":"ann"', '"actor":"bob"', 1))
    assert audit(kafka, tmp_path, monkeypatch, "verify", "--file", str(tmp_path / "audit.jsonl"))[0] == 1
