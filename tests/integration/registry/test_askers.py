"""Which requests for a successor are believed. On both databases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from agents.access.askers import Askers
from agents.access.logic import Grant, local_principal
from agents.access.signatures import CommandSigner, own_ring
from agents.access.signers import Signers
from agents.notifying.agent import AlertNotifier
from agents.registry.audit import verify_audit
from agents.retraining import jobs
from agents.retraining.agent import Handler
from agents.signing import KeyRing
from schemas.codec import encode, to_ms
from schemas.errors import DecodeError
from schemas.events import CommandRefused, RetrainRequest
from schemas.topics import RETRAIN_REQUESTS
from streams.kafka.records import Record
from tests.support.registries import EVENT_TIME, RegistryWorld

HERE = "cluster/retrain-requests"
REQUEST = RetrainRequest(
    request_id="1", model="m", trigger="manual", reason="new depots", as_of=EVENT_TIME, requested_by="ann"
)


class Post:
    """The retraining agent's handler, and records as the broker would hand them over."""

    def __init__(self, world: RegistryWorld) -> None:
        self.world = world
        self.signers = Signers(lambda: world.now)
        self.system = own_ring(world.folder)
        self.believe = Askers(lambda: HERE, self.system, self.signers)
        self.handler = Handler(world.registry, believe=self.believe)

    def ring(self, name: str, roles: Sequence[str], pattern: str = "*") -> KeyRing:
        ring = KeyRing(self.world.folder / f"ring-{name}")
        for role in roles:
            with self.world.sessions.begin() as session:
                grant = Grant(role, pattern)  # type: ignore[arg-type]
                self.signers.add(session, name, ring.public_pem(), by=local_principal("root"), grant=grant)
        return ring

    def record(
        self, ring: KeyRing | None, request: RetrainRequest = REQUEST, *, audience: str = HERE, minutes: int = 0
    ) -> Record:
        value, key = encode(request), request.model.encode()
        at = self.world.now + timedelta(minutes=minutes)
        headers = CommandSigner(ring, lambda: audience, lambda: at).headers(key, value) if ring is not None else None
        return Record(RETRAIN_REQUESTS, 0, 7, key, value, headers, to_ms(self.world.now))  # type: ignore[arg-type]

    def give(self, record: Record) -> DecodeError | None:
        with self.world.sessions.begin() as session:
            return self.handler(session, record)

    def runs(self) -> int:
        with self.world.readers() as session:
            return len(jobs.list_runs(session, "m"))


@pytest.fixture
def post(world: RegistryWorld) -> Post:
    world.model()
    world.candidate()
    return Post(world)


def test_agents_and_producers_are_believed(post: Post) -> None:
    by_alerting = msgspec.structs.replace(REQUEST, request_id="2", requested_by="alerting")
    assert post.give(post.record(post.system, by_alerting)) is None, "the key is found though nobody registered it"
    assert post.give(post.record(post.ring("ann", ["producer"]))) is None
    assert post.runs() == 2
    assert post.give(post.record(KeyRing(post.world.folder / "ring-ann"))) is None, "the same request again"
    assert post.runs() == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unsigned", "unsigned"),
        ("stranger", "untrusted"),
        ("viewer", "forbidden"),
        ("others", "forbidden"),
        ("name", "actor"),
        ("audience", "audience"),
        ("old", "age"),
        ("value", "signature"),
        ("key", "signature"),
    ],
)
def test_what_is_not_believed_is_audited_and_trains_nothing(post: Post, how: str, reason: str) -> None:
    roles = {"stranger": [], "viewer": ["viewer"]}.get(how, ["producer"])
    ring = None if how == "unsigned" else post.ring("ann", roles, "bus-*" if how == "others" else "*")
    request = msgspec.structs.replace(REQUEST, requested_by="alerting") if how == "name" else REQUEST
    # Signed for the other topic: a command's signature is no request's.
    audience = "cluster/registry-commands" if how == "audience" else HERE
    record = post.record(ring, request, audience=audience, minutes=-11 if how == "old" else 0)
    if how == "value":
        record = record._replace(value=(record.value or b"").replace(b"depots", b"despot"))
    if how == "key":
        record = record._replace(key=b"n")
    error = post.give(record)
    assert error is not None
    assert error.reason == reason
    assert post.runs() == 0
    (refused,) = [event for event in post.world.events() if isinstance(event, CommandRefused)]
    assert (refused.command, refused.command_id, refused.reason) == ("RetrainRequest", "1", reason)
    with post.world.readers() as session:
        assert verify_audit(session).problem is None
    if how == "unsigned":
        assert post.give(post.record(post.ring("ann", ["producer"]))) is None, "its id was not used up"


def test_nobody_is_told_of_what_is_not_believed(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that is trained elsewhere, the notifying agent tells who trains it: only what is believed."""
    told: list[object] = []
    monkeypatch.setattr("agents.notifying.agent.is_watched", lambda *_: True)
    monkeypatch.setattr("agents.notifying.agent.deliveries.plan", lambda *given: told.append(given))
    monkeypatch.setattr("agents.notifying.agent.STALE_AFTER", timedelta(days=100_000))
    notifier = AlertNotifier([], believe=post.believe)
    for record, count in ((post.record(None), 0), (post.record(post.ring("ann", ["producer"])), 1)):
        with post.world.sessions.begin() as session:
            notifier(session, record)
        assert len(told) == count
