"""Which commands of the topic are believed: every way to forge, replay or overreach is refused and audited."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.access.logic import Grant, local_principal
from agents.access.signatures import SIGNATURE, CommandSigner, own_ring
from agents.access.signers import SYSTEM, Signers
from agents.registry.agent import CommandHandler
from agents.registry.audit import verify_audit
from agents.signing import KeyRing
from schemas.codec import encode, to_ms
from schemas.errors import ConfigurationError, ConflictError, DecodeError, NotFoundError
from schemas.events import (
    AccessChanged,
    ApproveVersion,
    CommandRefused,
    EndProbation,
    ModelRolledBack,
    ObserveVersion,
    RegistryCommand,
    RejectVersion,
    RollBackModel,
    SubmitCandidate,
    VersionApproved,
)
from schemas.topics import REGISTRY_COMMANDS
from streams.kafka.records import Record
from tests.support.registries import EVENT_TIME, RegistryWorld

HERE = "cluster/registry-commands"
ROOT = local_principal("root")


@dataclass
class Post:
    """A registry's handler, and records as the broker would hand them over."""

    world: RegistryWorld
    offset: int = 0
    rings: dict[str, KeyRing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.signers = Signers(lambda: self.world.now)
        self.system = own_ring(self.world.folder)
        self.handler = CommandHandler(self.world.registry, HERE, self.system)

    def ring(self, name: str, role: str = "", pattern: str = "*") -> KeyRing:
        """A key of somebody; believed where a role is given."""
        ring = KeyRing(Path(self.world.folder) / f"ring-{name}-{len(self.rings)}")
        self.rings[name] = ring
        if role:
            with self.world.sessions.begin() as session:
                self.signers.add(session, name, ring.public_pem(), by=ROOT, grant=Grant(role, pattern))
        return ring

    def record(
        self, command: RegistryCommand, ring: KeyRing | None, *, audience: str = HERE, at: datetime | None = None
    ) -> Record:
        value, key = encode(command), command.model.encode()
        signed = at or self.world.now
        headers: Any = None
        if ring is not None:
            headers = CommandSigner(ring, lambda: audience, lambda: signed).headers(key, value)
        return self.told(value, key, headers)

    def told(self, value: bytes, key: bytes, headers: Any) -> Record:
        self.offset += 1
        return Record(REGISTRY_COMMANDS, 0, self.offset, key, value, headers, to_ms(self.world.now))

    def give(self, record: Record) -> DecodeError | None:
        with self.world.sessions.begin() as session:
            return self.handler(session, record)

    def refused(self) -> list[CommandRefused]:
        return [event for event in self.world.events() if isinstance(event, CommandRefused)]


@pytest.fixture
def post(world: RegistryWorld) -> Post:
    """Model m with version 1 that waits for approval, model n with two former champions."""
    world.model(mode="manual")
    world.candidate(mode="manual")
    world.model("n")
    world.candidate("n")
    world.candidate("n")
    return Post(world)


def approve(actor: str = "ann", command_id: str = "1", model: str = "m") -> ApproveVersion:
    return ApproveVersion(command_id=command_id, model=model, actor=actor, version=1)


def test_a_signed_command_is_done_and_the_audit_names_the_signer(post: Post) -> None:
    ring = post.ring("ann", "approver")
    assert post.give(post.record(approve(), ring)) is None
    event = next(event for event in post.world.events() if isinstance(event, VersionApproved) and event.model == "m")
    assert (event.actor, event.principal, event.authenticated) == ("ann", "signer:ann", True)
    assert event.credential == ring.own()


def test_a_signed_approval_says_what_the_file_may_hold(post: Post) -> None:
    """Nobody agrees to types by the way: they stand in what is signed."""
    post.world.model("t", allowed=("own_models.Own",))
    assert post.world.candidate("t", allowed=("own_models.Own",)) == (1, "awaiting-approval")
    ring = post.ring("ann", "approver")
    with pytest.raises(DecodeError, match="nobody agreed to yet"):
        post.give(post.record(approve(model="t"), ring))
    agreed = msgspec.structs.replace(approve(command_id="2", model="t"), consented=["own_models.Own"])
    assert post.give(post.record(agreed, ring)) is None
    assert post.world.states()[-1].champion == 1


def tampered(post: Post, change: Callable[[Record], Record]) -> Record:
    return change(post.record(approve(), post.ring("ann", "approver")))


def other_value(record: Record) -> Record:
    return record._replace(value=(record.value or b"").replace(b'"version":1', b'"version":2'))


def other_time(record: Record) -> Record:
    headers = [(n, b"2026-01-01T00:00:59Z" if n == "driftline-signed-at" else v) for n, v in record.headers or ()]
    return record._replace(headers=headers)


def other_signature(record: Record) -> Record:
    headers = [(n, of_another_end(v or b"") if n == SIGNATURE else v) for n, v in record.headers or ()]
    return record._replace(headers=headers)


def of_another_end(header: bytes) -> bytes:
    """A signature's header with its last byte changed, whatever that was: one in sixteen ends with 00."""
    found = json.loads(header)
    signature = bytes.fromhex(found["signature"])
    return json.dumps(found | {"signature": (signature[:-1] + bytes([signature[-1] ^ 1])).hex()}).encode()


FORGED: dict[str, tuple[Callable[[Post], Record], str]] = {
    "nobody signed": (lambda p: p.record(approve(), None), "unsigned"),
    "garbage": (lambda p: p.told(encode(approve()), b"m", [(SIGNATURE, b"{"), ("x", b"\xff")]), "signature"),
    "no time": (lambda p: tampered(p, lambda r: r._replace(headers=(r.headers or [])[2:])), "signature"),
    "a stranger": (lambda p: p.record(approve(), p.ring("eve")), "untrusted"),
    "another value": (lambda p: tampered(p, other_value), "signature"),
    "another key": (lambda p: tampered(p, lambda r: r._replace(key=b"n")), "signature"),
    "another time": (lambda p: tampered(p, other_time), "signature"),
    "another signature": (lambda p: tampered(p, other_signature), "signature"),
    "another system": (lambda p: p.record(approve(), p.ring("ann", "approver"), audience="test/x"), "audience"),
    "too old": (
        lambda p: p.record(approve(), p.ring("ann", "approver"), at=p.world.now - timedelta(minutes=11)), "age",
    ),
    "from the future": (
        lambda p: p.record(approve(), p.ring("ann", "approver"), at=p.world.now + timedelta(minutes=11)), "age",
    ),
    "in another's name": (lambda p: p.record(approve("bea"), p.ring("ann", "approver")), "actor"),
    "a viewer": (lambda p: p.record(approve(), p.ring("ann", "viewer")), "forbidden"),
    "a producer": (lambda p: p.record(approve(), p.ring("ann", "producer")), "forbidden"),
    "an approver of others": (lambda p: p.record(approve(), p.ring("ann", "approver", "bus-*")), "forbidden"),
    "an agent approves": (lambda p: p.record(approve("retraining"), p.system), "forbidden"),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_what_is_not_believed_is_audited_and_does_nothing(post: Post, how: str) -> None:
    make, reason = FORGED[how]
    record = make(post)
    error = post.give(record)
    assert error is not None
    assert error.reason == reason
    (refused,) = post.refused()
    assert (refused.reason, refused.model, refused.authenticated) == (reason, "m", False)
    assert refused.command_id == "1"
    assert refused.detail
    with post.world.readers() as session:
        assert post.world.registry.version(session, "m", 1).stage == "approval-requested"
        assert verify_audit(session).problem is None


def test_a_command_sent_again_is_done_once(post: Post) -> None:
    ring = post.ring("ann", "approver")
    record = post.record(RollBackModel(command_id="r", model="n", actor="ann", reason="x", to=1), ring)
    again = record._replace(offset=99)
    resigned = post.record(RollBackModel(command_id="r", model="n", actor="ann", reason="x", to=2), ring)
    assert [post.give(each) for each in (record, again, resigned)] == [None, None, None]
    assert sum(isinstance(event, ModelRolledBack) for event in post.world.events()) == 1
    # What was kept and is sent again later is refused by its age: the broker says when it came.
    late = again._replace(timestamp_ms=record.timestamp_ms + 700_000)
    error = post.give(late)
    assert error is not None
    assert error.reason == "age"


def test_a_refused_command_does_not_use_up_its_id(post: Post) -> None:
    """Otherwise whoever guesses an id could forbid a command."""
    post.give(post.record(approve(), None))
    assert post.give(post.record(approve(), post.ring("ann", "approver"))) is None
    with post.world.readers() as session:
        assert post.world.registry.version(session, "m", 1).stage == "promoted"


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (RejectVersion(command_id="1", model="m", actor="ann", version=1, reason="x"), "approver"),
        (RollBackModel(command_id="1", model="n", actor="ann", reason="x"), "approver"),
        (EndProbation(command_id="1", model="n", actor="ann", version=2, reason="x"), "approver"),
        (ObserveVersion(command_id="1", model="n", actor="ann", external="v", at=EVENT_TIME), "producer"),
        (
            SubmitCandidate(
                command_id="1", model="n", actor="ann", version=3, run_id="r", passed=True, reason="x", at=EVENT_TIME
            ),
            "admin",
        ),
    ],
)
def test_each_command_needs_its_role(post: Post, command: RegistryCommand, role: str) -> None:
    for held in ("viewer", "producer", "approver", "admin"):
        name = f"{held}-{role}"
        ring = post.ring(name, held)
        mine = msgspec.structs.replace(command, actor=name, command_id=name)
        try:
            error = post.give(post.record(mine, ring))
        except DecodeError as refused:  # the registry's own refusals: believed, but not possible
            error = None if refused.reason in {"conflict", "transition", "not-found"} else refused
        assert (error is None) == (held in {role, "admin"}), held


def test_agents_sign_with_the_key_of_their_home(post: Post) -> None:
    """Made at the first use, also when the registry runs already; readable by its owner alone."""
    command = RollBackModel(command_id="1", model="n", actor="policy:probation", reason="worse", at=EVENT_TIME)
    assert post.give(post.record(command, post.system)) is None
    assert (post.system.folder / "private.pem").stat().st_mode & 0o777 == 0o600
    assert post.system.folder.stat().st_mode & 0o777 == 0o700
    event = post.world.events()[-1]
    assert (event.actor, event.principal) == ("policy:probation", "system:agents")


def test_keys_are_rotated_and_revoked(post: Post) -> None:
    def roll_back(number: int) -> RollBackModel:
        return RollBackModel(command_id=f"{number}", model="n", actor="policy:probation", reason="x", to=1 + number % 2)

    waiting = post.record(roll_back(0), post.system)
    old, new = post.system.own(), post.system.rotate()
    assert old != new
    assert post.give(post.record(roll_back(2), post.system)) is None, "the new key is found by itself"
    assert post.give(waiting) is not None, "the old one was never believed here: it was not seen in force"
    with post.world.sessions.begin() as session:
        assert post.signers.revoke(session, new, by=ROOT) == [new]
    error = post.give(post.record(roll_back(3), post.system))
    assert error is not None
    assert "was revoked" in error.what, "also after a look at the folder"
    with pytest.raises(NotFoundError), post.world.sessions.begin() as session:
        post.signers.revoke(session, new, by=ROOT)


def test_several_keys_of_one_name_are_believed_until_each_is_revoked(post: Post) -> None:
    first, second = post.ring("ann", "approver"), post.ring("ann", "approver")
    with post.world.sessions.begin() as session:
        post.signers.revoke(session, first.own(), by=ROOT)
    error = post.give(post.record(approve(), first))
    assert error is not None
    assert error.reason == "untrusted"
    assert post.give(post.record(approve(), second)) is None
    told = [event for event in post.world.events() if isinstance(event, AccessChanged)]
    assert [event.change for event in told if event.subject == "ann"] == [
        "signer-added", "granted", "signer-added", "signer-revoked",
    ]  # fmt: skip


def test_what_is_no_key_or_has_no_role_is_not_added(post: Post) -> None:
    pem = post.ring("x").public_pem()
    with post.world.sessions.begin() as session:
        for name, key, grant in (
            ("ann", b"nonsense", Grant("approver")),
            ("ann", pem, None),
            (SYSTEM, pem, Grant("approver")),
            ("a b", pem, Grant("approver")),
        ):
            with pytest.raises(ConfigurationError) as caught:
                post.signers.add(session, name, key, by=ROOT, grant=grant)
            assert caught.value.where
        post.signers.add(session, SYSTEM, pem, by=ROOT, note="machine b")
        with pytest.raises(ConflictError):
            post.signers.add(session, "eve", pem, by=ROOT, grant=Grant("admin"))
        listed = post.signers.listed(session)
    assert [(info.name, info.note, info.grants) for info in listed] == [(SYSTEM, "machine b", [])]
