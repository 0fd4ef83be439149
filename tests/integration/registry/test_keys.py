"""API keys on both databases: what is kept of them, who may, what the audit says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import inspect, select, text

from agents.access import keys as keys_module
from agents.access.acting import acting_in
from agents.access.keys import Keys
from agents.access.logic import Grant, Principal, local_principal, token_parts
from agents.access.tables import ApiKeyRow, GrantRow
from agents.database.schema import metadata
from agents.registry.audit import verify_audit
from agents.registry.ledger import acting_for
from agents.registry.tables import AuditRow
from schemas.codec import decode
from schemas.errors import ConfigurationError, ConflictError, ForbiddenError, NotFoundError, UnauthenticatedError
from schemas.events import FLEET, AccessChanged, AnyRegistryEvent
from tests.support.registries import START, RegistryWorld

ROOT = local_principal("root")


def keys_of(world: RegistryWorld) -> Keys:
    return Keys(clock=lambda: world.now)


def make(world: RegistryWorld, name: str, role: str = "admin", by: Principal = ROOT, **more: object) -> str:
    with world.sessions.begin() as session:
        return keys_of(world).create(session, name, role, by=by, **more).token  # type: ignore[arg-type]


def who(world: RegistryWorld, token: str) -> Principal:
    with world.readers() as session:
        return keys_of(world).principal(session, token)


def test_a_key_is_its_holders_and_only_its_hash_is_kept(world: RegistryWorld) -> None:
    token = make(world, "ann")
    secret = token_parts(token)[1]
    found = who(world, token)
    assert (found.name, found.kind, found.authenticated, found.grants) == ("ann", "key", True, (Grant("admin"),))
    with world.readers() as session:
        row = session.get(ApiKeyRow, found.credential)
        assert row is not None
        assert row.hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        for table in metadata().tables:
            if not table.startswith("test_") and inspect(world.engine).has_table(table):
                for line in session.execute(text(f'SELECT * FROM "{table}"')):
                    assert secret not in repr(tuple(line)), table


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token[:4] + ("a" if token[4] != "a" else "b") + token[5:],
        lambda token: "nonsense",
    ],
)
def test_a_wrong_key_is_nobodys(world: RegistryWorld, spoil: object) -> None:
    token = make(world, "ann")
    wrong = spoil(token)  # type: ignore[operator]
    with pytest.raises(UnauthenticatedError) as caught:
        who(world, wrong)
    assert wrong not in str(caught.value)


def test_an_unknown_id_is_hashed_like_a_wrong_secret(world: RegistryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    token = make(world, "ann")
    hashed = []
    monkeypatch.setattr(keys_module, "_matches", lambda stored, secret: hashed.append(stored) or False)
    for wrong in ("dlk_" + "b" * 16 + "_" + "x" * 43, token[:-43] + "x" * 43):
        with pytest.raises(UnauthenticatedError) as caught:
            who(world, wrong)
        assert caught.value.what == "the API key is not valid"
    assert [stored[:30] for stored in hashed] == ["$argon2id$v=19$m=19456,t=2,p=1"] * 2
    with world.readers() as session:
        assert keys_of(world).principal(session, token, proven=True).name == "ann", "hashed a moment ago"
    assert len(hashed) == 2


def test_revoked_and_expired_keys_say_so(world: RegistryWorld) -> None:
    admin = make(world, "ann")
    other, short = make(world, "bea", "viewer"), make(world, "cyd", "viewer", expires_at=START + timedelta(days=1))
    assert who(world, short).name == "cyd"
    with world.sessions.begin() as session:
        (gone,) = keys_of(world).revoke(session, "bea", by=ROOT)
    with pytest.raises(UnauthenticatedError, match=f"key {gone} of bea was revoked at"):
        who(world, other)
    world.now = START + timedelta(days=1)
    with pytest.raises(UnauthenticatedError, match="has expired"):
        who(world, short)
    assert who(world, admin).name == "ann"
    with world.readers() as session:
        listed = {info.name: info for info in keys_of(world).listed(session)}
    assert listed["bea"].revoked_at is not None
    assert (listed["ann"].grants, listed["ann"].created_by) == (["admin on *"], "root")
    with pytest.raises(NotFoundError), world.sessions.begin() as session:
        keys_of(world).revoke(session, "bea", by=ROOT)


def test_an_admin_is_first_and_last(world: RegistryWorld) -> None:
    for role, more in (("viewer", {}), ("admin", {"pattern": "bus-*"}), ("admin", {"team": "north"})):
        with pytest.raises(ConfigurationError, match="the first key has to be an admin's"):
            make(world, "eve", role, **more)
    make(world, "ann")
    make(world, "bea", "viewer")
    make(world, "cyd", "admin", pattern="bus-*")
    make(world, "dan", "admin", expires_at=world.now)
    with pytest.raises(ConflictError, match="no admin would be left"), world.sessions.begin() as session:
        keys_of(world).revoke(session, "ann", by=ROOT)
    with pytest.raises(ConflictError, match="no admin would be left"), world.sessions.begin() as session:
        keys_of(world).withdraw(session, "ann", Grant("admin"), by=ROOT)
    make(world, "eve")
    with world.sessions.begin() as session:
        keys_of(world).revoke(session, "ann", by=ROOT)
        assert keys_of(world).required(session), "also with keys that are revoked"


def test_rights_belong_to_the_name_and_can_be_taken_back(world: RegistryWorld) -> None:
    make(world, "ann")
    first, second = make(world, "bea", "viewer"), make(world, "bea", "approver", pattern="bus-*", team="north")
    assert set(who(world, first).grants) == set(who(world, second).grants)
    assert not who(world, first).may("approver", "bus-1", "south")
    assert who(world, first).may("approver", "bus-1", "north")
    with world.sessions.begin() as session:
        keys_of(world).withdraw(session, "bea", Grant("approver", "bus-*", "north"), by=ROOT)
        keys_of(world).grant(session, "bea", Grant("producer", "x"), by=ROOT)
        keys_of(world).grant(session, "bea", Grant("producer", "x"), by=ROOT)
    assert who(world, second).grants == (Grant("viewer"), Grant("producer", "x"))
    for change in (keys_of(world).withdraw, keys_of(world).grant):
        with pytest.raises(NotFoundError), world.sessions.begin() as session:
            change(session, "nobody", Grant("viewer"), by=ROOT)


def test_every_change_of_rights_is_in_the_audit_and_told(world: RegistryWorld) -> None:
    token = make(world, "ann")
    make(world, "bea", "viewer", by=who(world, token))
    with world.sessions.begin() as session:
        keys_of(world).revoke(session, "bea", by=who(world, token))
    told = [event for event in world.events() if isinstance(event, AccessChanged)]
    assert [(e.change, e.subject, e.actor, e.authenticated) for e in told] == [
        ("key-created", "ann", "root", False),
        ("granted", "ann", "root", False),
        ("key-created", "bea", "ann", True),
        ("granted", "bea", "ann", True),
        ("key-revoked", "bea", "ann", True),
    ]
    assert {e.model for e in told} == {FLEET}
    assert (told[0].principal, told[2].principal) == ("local:root", "key:ann")
    assert told[2].credential == token[4:20]
    with world.readers() as session:
        assert verify_audit(session).problem is None
        assert len(session.scalars(select(AuditRow)).all()) == 5


def test_what_is_done_for_somebody_says_for_whom(world: RegistryWorld) -> None:
    token = make(world, "ann")
    world.model(mode="manual")
    for version, principal in ((1, ROOT), (2, who(world, token))):
        world.candidate(mode="manual")
        with world.sessions.begin() as session:
            acting_for(session, principal)
            world.registry.approve(session, "m", version, principal.name)
    with world.readers() as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.action == "VersionApproved").order_by(AuditRow.epoch))
        events = [decode(row.event.encode(), AnyRegistryEvent) for row in rows]  # type: ignore[arg-type]
    assert [(e.actor, e.principal, e.authenticated) for e in events] == [
        ("root", "local:root", False),
        ("ann", "key:ann", True),
    ]
    assert events[1].credential == token[4:20]


def test_the_command_line_asks_for_a_key_once_there_is_one(world: RegistryWorld) -> None:
    local = acting_in(world.readers, "", "admin", "*")
    assert (local.kind, local.authenticated) == ("local", False)
    ann = make(world, "ann")
    bea = make(world, "bea", "approver", pattern="bus-*")
    with pytest.raises(UnauthenticatedError, match="an API key is needed") as caught:
        acting_in(world.readers, "", "viewer", None)
    assert caught.value.where == "DRIFTLINE_API_KEY"
    assert acting_in(world.readers, ann, "admin", "*").name == "ann"
    assert acting_in(world.readers, bea, "approver", "bus-9").name == "bea"
    for role, model in (("approver", "tram-1"), ("producer", "bus-9"), ("viewer", "*")):
        with pytest.raises(ForbiddenError, match=f"bea lacks the role {role}"):
            acting_in(world.readers, bea, role, model)  # type: ignore[arg-type]


def test_a_wrong_secret_is_counted_with_the_key(world: RegistryWorld) -> None:
    token = make(world, "ann")
    with world.sessions.begin() as session:
        keys_of(world).failed(session, token)
        keys_of(world).failed(session, "dlk_" + "b" * 16 + "_" + "x" * 43)
        assert [row.failures for row in session.scalars(select(ApiKeyRow))] == [1]
        assert session.scalars(select(GrantRow.role)).all() == ["admin"]
