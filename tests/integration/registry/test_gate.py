"""The HTTP interface over a real registry with keys: who gets in, who may, what a browser is asked for."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select
from starlette.testclient import TestClient

from agents.access import gate as gate_module
from agents.access.gate import Gate
from agents.access.keys import Keys
from agents.access.logic import Grant, local_principal
from agents.access.tables import SessionRow
from agents.gateway.access import COOKIE
from agents.gateway.app import create_app
from agents.gateway.context import Context
from agents.gateway.decisions import RegistryDecisions
from agents.gateway.shared import SharedBoard
from agents.registry.tables import AuditRow
from schemas.codec import decode
from schemas.events import AnyRegistryEvent
from tests.support.registries import RegistryWorld, spec_text

BASE = "http://127.0.0.1:8787"
ROOT = local_principal("root")


@dataclass
class Site:
    """The application over a world, with keys for whom a test names."""

    world: RegistryWorld
    loopback: bool = True
    seconds: float = 0.0
    keys: Keys = field(init=False)
    gate: Gate = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(clock=lambda: self.world.now)
        self.gate = Gate(
            self.world.sessions, self.world.readers, loopback=self.loopback, account="root",
            clock=lambda: self.world.now, seconds=lambda: self.seconds,
        )  # fmt: skip
        decisions = RegistryDecisions(self.world.registry, self.world.readers)
        board = SharedBoard()
        board.caught_up = True
        self.app = create_app(Context(board, decisions, threading.Event(), gate=self.gate))

    def key(self, name: str, role: str = "admin", **more: str) -> str:
        with self.world.sessions.begin() as session:
            return self.keys.create(session, name, role, by=ROOT, **more).token  # type: ignore[arg-type]

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url=BASE, headers={"accept": "text/html"}, follow_redirects=False)

    def ask(self, path: str, key: str = "", method: str = "GET", **more: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with TestClient(self.app, base_url=BASE, headers=headers, follow_redirects=False) as client:
            return client.request(method, path, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hash costs is no part of these tests."""
    monkeypatch.setattr("agents.access.keys.hasher", lambda: PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def site(world: RegistryWorld) -> Site:
    return Site(world)


def login(browser: TestClient, key: str) -> httpx.Response:
    return browser.post("/login", data={"key": key, "next": "/models"})


def token_of(html: str) -> str:
    found = re.search(r'"X-CSRF-Token": "([0-9a-f]{64})"', html)
    assert found is not None
    return found[1]


def test_without_keys_loopback_is_open_and_the_audit_says_so(site: Site) -> None:
    site.world.model(mode="manual")
    site.world.candidate(mode="manual")
    assert site.ask("/api/models").status_code == 200
    assert "Log out" not in site.ask("/models").text
    answer = site.ask("/api/models/m/versions/1/approve", method="POST", json={"actor": "ann"})
    assert answer.status_code == 200
    with site.world.readers() as session:
        row = session.scalars(select(AuditRow).where(AuditRow.action == "VersionApproved")).one()
    event = decode(row.event.encode(), AnyRegistryEvent)  # type: ignore[arg-type]
    assert (event.actor, event.principal, event.authenticated) == ("ann", "local:root", False)


def test_off_loopback_keys_are_needed_before_there_is_one(world: RegistryWorld) -> None:
    answer = Site(world, loopback=False).ask("/api/models")
    assert answer.status_code == 401
    assert "driftline keys create" in answer.json()["error"]["remedy"]


def routes_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes)
        elif route.path == "/static":
            yield "GET", "/static/app.css"
        else:
            yield from ((method, route.path) for method in route.methods if method != "HEAD")


def test_every_route_but_those_that_tell_nothing_asks_for_a_key(site: Site) -> None:
    site.world.model()
    site.key("ann")
    stranger = site.key("cyd", "viewer", pattern="other")
    names = {"model": "m", "version": 1, "number": 1, "action": "approve", "part": "tiles"}
    anonymous, foreign = {}, {}
    for method, path in routes_of(site.app.routes):
        full = path.format_map(names)
        more: dict[str, Any] = {"data": {"key": "x"}} if (method, path) == ("POST", "/login") else {}
        anonymous[method, path] = site.ask(full, method=method, **more).status_code
        if "{model}" in path:
            foreign[method, path] = site.ask(full, stranger, method=method).status_code
    assert len(anonymous) >= 29
    assert {key for key, status in anonymous.items() if status != 401} == {
        ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/static/app.css"), ("GET", "/login"),
    }  # fmt: skip
    assert len(foreign) >= 13
    assert set(foreign.values()) == {403}, foreign
    for path in ("/metrics", "/api/incidents"):
        assert site.ask(path, stranger).status_code == 403, "it tells of all models"
    assert site.ask("/readyz?verbose").status_code == 401


def test_a_missing_right_is_named_and_nothing_is_done(site: Site) -> None:
    site.world.model(mode="manual")
    site.world.candidate(mode="manual")
    site.key("ann")
    viewer = site.key("bea", "viewer")
    for method, path in (
        ("POST", "/api/models/m/versions/1/approve"),
        ("POST", "/api/models/m/versions/1/reject"),
        ("POST", "/api/models/m/rollback"),
        ("GET", "/models/m/versions/1/approve"),
        ("POST", "/models/m/versions/1/approve"),
    ):
        answer = site.ask(path, viewer, method)
        assert answer.status_code == 403, path
        problem = answer.json()["error"]
        assert "bea lacks the role approver on m (has: viewer on *)" in problem["what"]
        assert "driftline keys grant bea --role approver --model 'm'" in problem["remedy"]
    assert site.ask("/api/models/m/versions", viewer).json()["versions"][0]["stage"] == "approval-requested"


def test_the_holder_is_the_actor_and_can_be_nobody_else(site: Site) -> None:
    site.world.model(mode="manual")
    site.world.candidate(mode="manual")
    site.key("ann")
    approver = site.key("bea", "approver", pattern="m")
    path = "/api/models/m/versions/1/approve"
    claimed = site.ask(path, approver, "POST", json={"actor": "cyd"})
    assert claimed.status_code == 403
    assert "cannot act as cyd" in claimed.json()["error"]["what"]
    assert site.ask(path, approver, "POST", json={"comment": "fine"}).status_code == 200
    with site.world.readers() as session:
        row = session.scalars(select(AuditRow).where(AuditRow.action == "VersionApproved")).one()
        event = decode(row.event.encode(), AnyRegistryEvent)  # type: ignore[arg-type]
    assert (row.actor, event.principal, event.authenticated) == ("bea", "key:bea", True)


def test_lists_hold_what_one_may_see(site: Site) -> None:
    site.key("ann")
    for name in ("bus-1", "bus-2", "tram-1"):
        site.world.model(name)
    viewer = site.key("bea", "viewer", pattern="bus-*")
    assert [m["model"] for m in site.ask("/api/models", viewer).json()["models"]] == ["bus-1", "bus-2"]
    page = site.ask("/models", viewer).text
    assert "bus-1" in page
    assert "tram-1" not in page
    assert "tram-1" not in site.ask("/models/bus-1", viewer).text, "the picker too"
    none = site.key("cyd", "viewer", team="north")
    assert site.ask("/api/models", none).json()["models"] == []


def test_a_team_is_the_specifications(site: Site) -> None:
    for name, team in (("n", "north"), ("s", "south")):
        with site.world.sessions.begin() as session:
            text = spec_text(name).replace("[data]", f'team = "{team}"\n[data]')
            site.world.registry.register_model(session, text, "ann")
    site.key("ann")
    viewer = site.key("bea", "viewer", team="north")
    assert [m["model"] for m in site.ask("/api/models", viewer).json()["models"]] == ["n"]
    assert [site.ask(f"/api/models/{m}/versions", viewer).status_code for m in ("n", "s")] == [200, 403]


def test_a_browser_logs_in_and_its_cookie_is_kept_from_others(site: Site) -> None:
    site.world.model(mode="manual")
    site.world.candidate(mode="manual")
    key = site.key("ann")
    with site.browser() as browser:
        sent = browser.get("/models/m")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/models/m")
        assert 'name="key" type="password"' in browser.get("/login").text
        assert browser.get("/parts/accounting", headers={"hx-request": "true"}).headers["hx-redirect"] == "/login"
        answer = login(browser, key)
        assert (answer.status_code, answer.headers["location"]) == (303, "/models")
        written = answer.headers["set-cookie"]
        assert written.startswith(f"{COOKIE}=")
        for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
            assert word in written, written
        assert "Secure" not in written
        assert key not in written
        cookie = browser.cookies[COOKIE]
        page = browser.get("/models/m")
        assert (page.status_code, "Log out" in page.text, ">ann<" in page.text) == (200, True, True)
        with site.world.readers() as session:
            assert cookie not in [row.digest for row in session.scalars(select(SessionRow))]
        dialog = browser.get("/models/m/versions/1/approve").text
        assert "As ann." in dialog
        assert 'name="actor"' not in dialog
        path, csrf = "/models/m/versions/1/approve", token_of(page.text)
        for headers in ({}, {"x-csrf-token": "0" * 64}):
            refused = browser.post(path, data={}, headers=headers)
            assert refused.status_code == 403, "a cookie alone changes nothing"
        assert browser.post("/api/models/m/rollback", json={}).status_code == 403
        assert browser.post(path, data={"reason": "ok"}, headers={"x-csrf-token": csrf}).status_code == 204
        done = browser.post("/logout", headers={"x-csrf-token": csrf})
        assert done.headers["hx-redirect"] == "/login"
        browser.cookies.set(COOKIE, cookie)
        assert browser.get("/models/m").status_code == 303, "the session is over everywhere"


def test_over_https_the_cookie_is_secure(site: Site) -> None:
    key = site.key("ann")
    with TestClient(site.app, base_url="https://127.0.0.1", follow_redirects=False) as browser:
        assert "Secure" in login(browser, key).headers["set-cookie"]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda site: revoke(site, "bea"), 200),
        (lambda site: revoke(site, "ann"), 303),
        (lambda site: setattr(site.world, "now", site.world.now + gate_module.SESSION), 303),
    ],
)
def test_a_session_ends_with_its_key_and_its_time(site: Site, end: Callable[[Site], object], status: int) -> None:
    key = site.key("ann")
    site.key("bea")
    with site.browser() as browser:
        login(browser, key)
        assert browser.get("/models").status_code == 200
        end(site)
        assert browser.get("/models").status_code == status


def revoke(site: Site, name: str) -> None:
    with site.world.sessions.begin() as session:
        site.keys.revoke(session, name, by=ROOT)


def test_a_login_leads_to_pages_of_ours_alone(site: Site) -> None:
    key = site.key("ann")
    for goal in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        with site.browser() as browser:
            assert browser.post("/login", data={"key": key, "next": goal}).headers["location"] == "/"
            other = browser.post("/login", data={"key": key}, headers={"sec-fetch-site": "cross-site"})
            assert other.status_code == 403


def test_a_revoked_key_is_refused_at_the_next_request(site: Site) -> None:
    site.key("ann")
    key = site.key("bea", "viewer")
    assert site.ask("/api/models", key).status_code == 200
    revoke(site, "bea")
    answer = site.ask("/api/models", key)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "was revoked" in answer.json()["error"]["what"]


def test_rights_count_from_the_next_request(site: Site) -> None:
    site.world.model()
    site.key("ann")
    key = site.key("bea", "viewer", pattern="x")
    assert site.ask("/api/models/m/versions", key).status_code == 403
    with site.world.sessions.begin() as session:
        site.keys.grant(session, "bea", Grant("viewer", "m"), by=ROOT)
    assert site.ask("/api/models/m/versions", key).status_code == 200


def test_guessing_is_counted_slowed_and_never_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    key = site.key("ann")
    assert site.ask("/api/models", key).status_code == 200
    guesses = [key[:-6] + f"{n:06d}" for n in range(12)]
    answers = [site.ask("/api/models", guess) for guess in guesses]
    assert Counter(answer.status_code for answer in answers) == {401: 5, 429: 7}
    assert int(answers[-1].headers["retry-after"]) >= 1
    with site.browser() as browser:
        slowed = login(browser, guesses[0])
        assert (slowed.status_code, "too many failed attempts" in slowed.text) == (429, True)
    assert site.ask("/api/models", key).status_code == 200, "who is known goes on"
    told = caplog.text + "".join(answer.text for answer in answers)
    assert "refused a key from" in told
    assert not any(guess[21:] in told for guess in [*guesses, key])
    with site.world.readers() as session:
        assert [info.failures for info in site.keys.listed(session)] == [5]
    assert site.gate.failures == 5
    site.seconds = 3.0
    assert site.ask("/api/models", guesses[0]).status_code == 401, "after the wait it is looked at again"
    assert "driftline_gateway_refused_keys_total 6.0" in site.ask("/metrics", key).text


def test_many_are_approved_where_one_may_and_roll_backs_reviewed(site: Site) -> None:
    for name in ("bus-1", "bus-2", "tram-1"):
        site.world.model(name, mode="manual")
        for _ in range(2):
            site.world.candidate(name, mode="manual")
    site.key("ann")
    key = site.key("bea", "approver", pattern="bus-1")

    def post(path: str, key: str = key, **body: object) -> Any:
        answer = site.ask(path, key, "POST", json=body)
        return answer.status_code, answer.json()

    assert post("/api/approvals")[0] == 400, "a pattern has to be named"
    status, told = post("/api/approvals", match="bus-*", comment="fine")
    assert (status, told["approved"], told["refused"]) == (200, 2, 2)
    assert {each["model"] for each in told["versions"] if each["problem"]} == {"bus-2"}
    assert post("/api/models/bus-1/rollback", reason="it burns")[1]["version"] == 1
    boss = site.key("cyd", "approver", pattern="bus-*")
    stranger = site.key("dan", "approver", pattern="tram-*")
    assert site.ask("/api/reviews", stranger).json() == {"reviews": []}
    (flagged,) = site.ask("/api/reviews", boss).json()["reviews"]
    assert (flagged["model"], flagged["previous"], flagged["version"], flagged["actor"]) == ("bus-1", 2, 1, "bea")
    path = f"/api/reviews/{flagged['id']}"
    assert post(path, stranger, comment="x")[0] == 403
    assert post(path, boss)[0] == 400, "what was found has to be said"
    assert post(path, boss, comment="right")[1]["reviewed_by"] == "cyd"
    assert post(path, boss, comment="again")[0] == 409
    assert site.ask("/api/reviews", boss).json() == {"reviews": []}
    assert len(site.ask("/api/reviews?done=true", boss).json()["reviews"]) == 1
    assert post("/api/models/bus-1/versions/2/archive", reason="old")[1]["stage"] == "archived"
    assert post("/api/models/bus-1/versions/2/request-approval")[0] == 403, "approvers do not ask"
    assert post("/api/models/bus-1/versions/2/request-approval", site.key("eve"))[0] == 409


def test_the_page_approves_a_fleet(site: Site) -> None:
    for name in ("bus-1", "bus-2", "tram-1"):
        site.world.model(name, mode="manual")
        site.world.candidate(name, mode="manual")
    key = site.key("ann")
    with site.browser() as browser:
        login(browser, key)
        page = browser.get("/models").text
        assert "3 waiting for approval" in page
        assert browser.post("/approvals", data={"match": "bus-*"}).status_code == 403, "a cookie alone"
        told = browser.post("/approvals", data={"match": "bus-*"}, headers={"x-csrf-token": token_of(page)}).text
        assert told.count("promoted") == 2
        assert "tram-1" not in told
        assert "1 waiting for approval" in browser.get("/models").text


def test_the_page_rolls_a_fleet_back_as_many_as_were_shown(site: Site) -> None:
    for name in ("bus-1", "bus-2", "bus-3", "tram-1"):
        site.world.model(name)
        for _ in range(1 if name == "bus-3" else 2):
            site.world.candidate(name)
    key = site.key("ann")
    with site.world.sessions.begin() as session:
        site.world.registry.tag(session, "tram-1", None, {"city": "nyc"}, [], "ann")
    with site.browser() as browser:
        login(browser, key)
        page = browser.get("/models").text
        assert browser.post("/rollbacks", data={"match": "bus-*", "reason": "x"}).status_code == 403, "a cookie alone"

        def post(path: str, **data: str) -> str:
            return browser.post(path, data=data, headers={"x-csrf-token": token_of(page)}).text

        for path in ("/rollbacks", "/approvals"):
            for nothing in ({}, {"tag": " =nyc"}, {"match": " "}):
                assert "no models are named" in post(path, reason="worse", **nothing)
        assert "say why" in post("/rollbacks", match="bus-*")
        shown = post("/rollbacks", match="bus-*", reason='"worse" & <b>')
        assert "Roll back 2 models" in shown
        assert "has no predecessor" in shown
        assert "&#34;worse&#34; &amp; &lt;b&gt;" in shown
        assert site.world.champion("bus-1") == 2, "nothing is done yet"
        assert "1 were confirmed" in post("/rollbacks", match="bus-*", reason="worse", confirm="1")
        told = post("/rollbacks", match="bus-*", reason="worse", confirm="2")
        assert told.count("promoted") == 2
        assert [site.world.champion(name) for name in ("bus-1", "bus-2", "bus-3", "tram-1")] == [1, 1, 1, 2]
        assert "Roll back 1 model<" in post("/rollbacks", tag="city=nyc", reason="worse")


def test_the_page_flags_a_version_and_takes_it_back(site: Site) -> None:
    site.world.model()
    for _ in range(2):
        site.world.candidate()
    key = site.key("ann")
    with site.browser() as browser:
        login(browser, key)
        page = browser.get("/models/m").text

        def post(action: str, reason: str = "labels leaked", version: int = 1) -> Any:
            path = f"/models/m/versions/{version}/{action}"
            return browser.post(path, data={"reason": reason}, headers={"x-csrf-token": token_of(page)})

        assert page.count("Faulty…") == 2
        assert "Flag version 1 as faulty?" in browser.get("/models/m/versions/1/flag").text
        assert post("flag").status_code == 204
        assert "is flagged already" in post("flag").text
        page = browser.get("/models/m").text
        assert "is flagged faulty: labels leaked (ann)" in page
        assert page.count("Withdraw the flag</button>") == 1
        assert "Roll back to 1</button>" not in page
        assert post("withdraw-flag", "the labels are right").status_code == 204
        assert "faulty</span>" not in browser.get("/models/m").text


def test_fifty_people_decide_at_once_one_is_first(site: Site) -> None:
    """Fifty keys, half approve and half reject, over HTTP: one 200, 49 get 409."""
    site.world.model(mode="manual")
    site.world.candidate(mode="manual")
    site.key("ann")
    keys = [site.key(f"p{n}", "approver") for n in range(50)]
    barrier = threading.Barrier(50)
    statuses: Counter[int] = Counter()
    lock = threading.Lock()

    with TestClient(site.app, base_url=BASE) as client:

        def decide(n: int) -> None:
            headers = {"authorization": f"Bearer {keys[n]}"}
            barrier.wait()
            verb = "approve" if n % 2 else "reject"
            answer = client.post(f"/api/models/m/versions/1/{verb}", headers=headers, json={})
            with lock:
                statuses[answer.status_code] += 1

        threads = [threading.Thread(target=decide, args=(n,)) for n in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == {200: 1, 409: 49}
    events = [type(event).__name__ for event in site.world.events()]
    assert events.count("VersionApproved") + events.count("VersionRejected") == 1
    assert events.count("ModelPromoted") == events.count("VersionApproved")
