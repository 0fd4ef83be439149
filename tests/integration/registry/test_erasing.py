"""Erasing a person by HTTP: the same answer and audit as the command's, for admins of everything alone."""

from __future__ import annotations

import threading

import msgspec
import pytest
from sqlalchemy import select

from agents.access.logic import local_principal
from agents.gateway.app import create_app
from agents.gateway.context import Context
from agents.gateway.decisions import RegistryDecisions
from agents.gateway.shared import SharedBoard
from agents.registry.audit import verify_audit
from agents.registry.tables import AuditRow
from agents.subjects.erasure import Erased, Eraser
from agents.subjects.tables import SubjectKeyRow
from schemas.events import SubjectErased
from tests.integration.registry.test_gate import Site, cheap_hashes
from tests.integration.registry.test_subjects import SECRET, count, keys_of
from tests.support.registries import RegistryWorld

__all__ = ["cheap_hashes"]
PATH = "/api/erasures"


@pytest.fixture
def site(world: RegistryWorld) -> Site:
    found = Site(world)
    board = SharedBoard()
    board.caught_up = True
    eraser = Eraser(world.sessions, keys_of(world), world.store)
    decisions = RegistryDecisions(world.registry, world.readers)
    found.app = create_app(Context(board, decisions, threading.Event(), gate=found.gate, erase=eraser))
    return found


def test_only_an_admin_of_everything_may(site: Site) -> None:
    keys_of(site.world).of_subjects(["Ann Example"])
    site.key("root")
    body = {"subject": "Ann Example"}
    assert site.ask(PATH, method="POST", json=body).status_code == 401
    for name, role, pattern in (
        ("v", "viewer", "*"),
        ("p", "producer", "*"),
        ("a", "approver", "*"),
        ("o", "admin", "m"),
    ):
        answer = site.ask(PATH, site.key(name, role, pattern=pattern), "POST", json=body)
        assert answer.status_code == 403, name
        assert "lacks the role admin on all models" in answer.json()["error"]["what"]
    claimed = site.ask(PATH, site.key("eve"), "POST", json={**body, "actor": "root"})
    assert claimed.status_code == 403
    assert count(site.world, SubjectKeyRow) == 1
    assert not [event for event in site.world.events() if isinstance(event, SubjectErased)]


def test_it_answers_and_is_audited_as_the_command(site: Site) -> None:
    keys_of(site.world).of_subjects(["Ann Example", "7"])
    key = site.key("eve")

    def post(**body: object) -> tuple[int, str]:
        answer = site.ask(PATH, key, "POST", json=body)
        return answer.status_code, answer.text

    for wrong in ({}, {"subject": ""}, {"subject": True}, {"subject": ["Ann Example"]}, {"subject": "7", "dry_run": 1}):
        assert post(**wrong)[0] == 400, wrong
    assert post(subject="nobody")[0] == 404
    status, said = post(subject="Ann Example", dry_run=True)
    assert (status, msgspec.json.decode(said, type=Erased).keys, count(site.world, SubjectKeyRow)) == (200, 1, 2)
    status, said = post(subject="Ann Example")
    done = msgspec.json.decode(said, type=Erased)
    assert (status, done.subject, done.keys, done.left) == (200, SECRET.pseudonym("Ann Example"), 1, [])
    assert "Ann" not in said
    # The command says the same of somebody who was erased before, but for what the first answer says more.
    command = Eraser(site.world.sessions, keys_of(site.world), site.world.store)
    again = command("Ann Example", local_principal("ann"))
    assert again == msgspec.structs.replace(done, keys=0)
    assert msgspec.json.decode(post(subject="Ann Example")[1], type=Erased) == again
    assert post(subject=7)[0] == 200, "a number is its text"
    erased = [event for event in site.world.events() if isinstance(event, SubjectErased)]
    assert [(event.actor, event.principal, event.authenticated) for event in erased] == [("eve", "key:eve", True)] * 2
    with site.world.readers() as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.action == "SubjectErased")).all()
        assert [(row.actor, row.epoch) for row in rows] == [("eve", done.epoch), ("eve", rows[1].epoch)]
        assert verify_audit(session).problem is None


def test_where_nobody_ever_had_a_key_none_is_made(site: Site) -> None:
    answer = site.ask(PATH, site.key("eve"), "POST", json={"subject": "Ann"})
    assert answer.status_code == 404
    assert not keys_of(site.world).any()
