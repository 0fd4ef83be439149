"""The page in a real browser: drawn, live, decided on, on a large and a small screen, light and dark."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agents.access.gate import Gate
from agents.access.keys import Keys
from agents.access.logic import local_principal
from agents.gateway.context import Context
from agents.gateway.decisions import RegistryDecisions
from agents.gateway.shared import SharedBoard
from agents.provenance.answers import Provenance
from schemas.events import ModelPromoted
from tests.support.databases import prepare
from tests.support.gateway import MODEL, START, MemoryRegistry, make_context, quality, serving
from tests.support.registries import RegistryWorld

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]

PIXELS = """() => {
  const canvas = document.querySelector("#chart canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return seen.size;
}"""
COLOURS = (
    """() => [...new Set([...document.querySelectorAll('#legend .swatch')].map((s) => s.style.background))].length"""
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def gateway() -> Iterator[tuple[str, Context, MemoryRegistry]]:
    context, registry = make_context()
    with serving(context) as address:
        yield address, context, registry


Gateway = tuple[str, Context, MemoryRegistry]


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """The model's page with its chart drawn; any error in the browser's console fails the test."""
    session = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    opened = session.new_page()
    problems: list[str] = []
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith((gateway[0], "data:")) else problems.append(r.url))
    opened.goto(gateway[0])
    opened.wait_for_selector("#live[data-state=live]")
    opened.wait_for_selector("#chart canvas")
    yield opened
    session.close()
    assert problems == []


def test_a_line_is_drawn_for_every_version(page: Page) -> None:
    page.wait_for_function(f"({PIXELS})() > 20")
    assert page.evaluate(COLOURS) == 3
    lines = page.locator("#legend li")
    assert lines.filter(has_not_text="estimated").count() == 3
    assert lines.filter(has_text="estimated").count() == 3
    page.hover("#chart .u-over", position={"x": 300, "y": 120})
    page.wait_for_selector(".tip:not([hidden])")
    assert "last 7d" not in page.inner_text(".tip")
    assert "% labelled" in page.inner_text(".tip")


def test_controls_change_the_chart(page: Page) -> None:
    before = page.inner_text("#legend")
    page.select_option("#metric", "accuracy")
    page.wait_for_function("(old) => document.getElementById('legend').innerText !== old", arg=before)
    before = page.inner_text("#legend")
    page.select_option("#segment", "origin=EWR")
    page.wait_for_function("(old) => document.getElementById('legend').innerText !== old", arg=before)
    drift = page.inner_text("#drift")
    page.select_option("#statistic", "jensen_shannon")
    page.wait_for_function("(old) => document.getElementById('drift').innerText !== old", arg=drift)


def test_a_new_window_arrives_by_itself(page: Page, gateway: Gateway) -> None:
    before = page.inner_text("#live")
    with gateway[1].board.use() as board:
        board.add_quality(quality(201, 3, 0.4321, window="7d"))
    page.wait_for_function("() => document.getElementById('legend').innerText.includes('0.4321')")
    assert page.inner_text("#live") != before
    page.wait_for_function("() => document.getElementById('tiles').innerText.includes('0.4321')")


def test_a_person_approves(page: Page, gateway: Gateway) -> None:
    _, context, registry = gateway
    page.get_by_role("button", name="Approve").click()
    page.wait_for_selector("dialog[open]")
    page.fill("dialog input[name=actor]", "Ann")
    page.fill("dialog textarea", "looks good")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog[open]", state="hidden")
    assert registry.decisions == [("approve", 4, "Ann", "looks good")]
    with context.board.use() as board:
        board.add_event(
            ModelPromoted(
                event_id="new", epoch=9, at=START, model=MODEL, actor="Ann", version=4, previous=3, artifact="a"
            )
        )
    page.wait_for_function("() => document.querySelector('#versions tr.current').innerText.startsWith('4')")
    page.wait_for_function("() => document.getElementById('activity').innerText.includes('Version 4 is champion')")
    assert page.get_by_role("button", name="Approve").count() == 0
    assert page.get_by_role("button", name="Roll back to 3").count() == 1


def test_a_refused_decision_says_why_and_keeps_what_was_written(page: Page, gateway: Gateway) -> None:
    registry = gateway[2]
    page.get_by_role("button", name="Reject").click()
    page.wait_for_selector("dialog[open]")
    page.fill("dialog input[name=actor]", "Ann")
    page.fill("dialog textarea", "I do not like it")
    registry.approve(MODEL, 4, by=local_principal("bob"), actor="Bob", comment="")  # somebody else is faster
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog .problem")
    assert "version 4 is promoted" in page.inner_text("dialog .problem")
    assert page.input_value("dialog textarea") == "I do not like it"
    page.click("dialog [data-close]")
    page.wait_for_selector("dialog[open]", state="hidden")
    assert [decision[0] for decision in registry.decisions] == ["approve"]


def test_the_theme_is_kept(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    page.click("#theme")
    dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    assert dark != light
    page.reload()
    page.wait_for_selector("#chart canvas")
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == dark


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1920, 1080)])
def test_no_screen_scrolls_sideways_and_the_buttons_can_be_reached(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_function("() => document.querySelector('#chart canvas').clientWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button = page.get_by_role("button", name="Approve")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_lost_and_found_again(page: Page, gateway: Gateway) -> None:
    context = gateway[1]
    page.route("**/changes", lambda route: route.abort())
    context.stop.set()  # the stream ends; the browser tries again and fails
    page.wait_for_selector("#live[data-state=lost]")
    context.stop.clear()
    page.unroute("**/changes")
    page.wait_for_selector("#live[data-state=live]", timeout=15_000)


def test_a_person_flags_a_version_and_rolls_a_fleet_back(browser: Browser, tmp_path: Path) -> None:
    world = RegistryWorld(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    prepare(world.engine)
    for name in ("bus-1", "bus-2", "tram-1"):
        world.model(name)
        for _ in range(2):
            world.candidate(name)
    context = Context(SharedBoard(), RegistryDecisions(world.registry, world.readers), threading.Event())
    with serving(context) as address, closing(browser.new_context()) as session:
        opened = session.new_page()
        problems: list[str] = []
        opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        opened.on("pageerror", lambda error: problems.append(str(error)))

        def say_why(button: str, reason: str) -> None:
            opened.locator("#versions tr", has=opened.locator("td.num .strong", has_text="2")).get_by_role(
                "button", name=button
            ).click()
            opened.wait_for_selector("dialog[open]")
            opened.fill("dialog input[name=actor]", "Ann")
            opened.fill("dialog textarea", reason)
            opened.click("dialog button[type=submit]")
            opened.wait_for_selector("dialog[open]", state="hidden")

        opened.goto(f"{address}/models/bus-1")
        say_why("Faulty…", "a unit is wrong")
        opened.wait_for_function(
            "() => document.querySelector('#versions').innerText.includes('a unit is wrong (Ann)')"
        )
        say_why("Withdraw the flag", "it is right")
        opened.wait_for_function("() => !document.querySelector('#versions').innerText.includes('a unit is wrong')")

        opened.goto(f"{address}/models")
        opened.click("#fleet summary")
        opened.fill("#roll-back-many input[name=match]", "bus-*")
        opened.fill("#roll-back-many input[name=actor]", "Ann")
        opened.fill("#roll-back-many input[name=reason]", "complaints")
        opened.click("#roll-back-many button")
        opened.get_by_role("button", name="Roll back 2 models").click()
        opened.wait_for_function("() => document.querySelector('#rolled-back').innerText.includes('promoted')")
        assert [world.champion(name) for name in ("bus-1", "bus-2", "tram-1")] == [1, 1, 2]
        opened.set_viewport_size({"width": 390, "height": 844})
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems == []
    world.close()


def test_a_person_agrees_to_the_types_of_a_fleet_by_name(browser: Browser, tmp_path: Path) -> None:
    world = RegistryWorld(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    prepare(world.engine)
    light, heavy = "lightgbm.sklearn.LGBMClassifier", "heavy.Tree"
    for name, allowed in (("bus-1", (light,)), ("bus-2", (light, heavy)), ("bus-3", ()), ("tram-1", (light,))):
        world.model(name, mode="manual", allowed=allowed)
        world.candidate(name, mode="manual", allowed=allowed)
    provenance = Provenance(world.registry, world.readers, str(tmp_path / "archive"))
    decisions = RegistryDecisions(world.registry, world.readers)
    context = Context(SharedBoard(), decisions, threading.Event(), provenance=provenance)
    with serving(context) as address, closing(browser.new_context()) as session:
        opened = session.new_page()
        problems: list[str] = []
        opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: dialog.accept())
        opened.goto(f"{address}/models")
        opened.fill("#approve-many input[name=match]", "bus-*")
        opened.fill("#approve-many input[name=actor]", "Ann")
        opened.fill("#approve-many input[name=comment]", "the new lines")
        opened.click("#approve-many button")
        opened.wait_for_selector("#consent-many")
        assert "bus-1 1, bus-2 1" in opened.inner_text(f"#consent-many label:has-text('{light}')")
        assert "tram" not in opened.inner_text("#consent-many")
        assert [world.champion(name) for name in ("bus-1", "bus-2", "bus-3")] == [None] * 3, "only asked so far"
        opened.check(f"#consent-many input[value='{light}']")
        opened.click("#consent-many button")
        opened.wait_for_selector("#outcomes table")
        assert [world.champion(name) for name in ("bus-1", "bus-2", "bus-3", "tram-1")] == [1, None, 1, None]
        assert f"nobody agreed to yet: {heavy}" in opened.inner_text("#outcomes tr:has-text('bus-2')")

        # Who let it, and into what, is what the page tells when somebody asks later.
        opened.goto(f"{address}/models/bus-1")
        opened.get_by_role("button", name="Why?").click()
        opened.wait_for_selector("dialog[open] dl")
        told = opened.inner_text("dialog")
        assert f"the new lines; agreed that its file may hold {light}" in told
        assert "Ann (local:" in told
        opened.set_viewport_size({"width": 390, "height": 844})
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        opened.click("dialog [data-close]")
        opened.wait_for_selector("dialog[open]", state="hidden")
        assert problems == []
    world.close()


def test_a_person_logs_in_decides_and_logs_out(browser: Browser, tmp_path: Path) -> None:
    """With keys, over a real registry: the cookie carries the stream and the decision, and ends with the log-out."""
    world = RegistryWorld(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    prepare(world.engine)
    world.model(mode="manual")
    world.candidate(mode="manual")
    with world.sessions.begin() as session:
        key = Keys().create(session, "ann", "admin", by=local_principal("root")).token
    context = Context(
        SharedBoard(),
        RegistryDecisions(world.registry, world.readers),
        threading.Event(),
        gate=Gate(world.sessions, world.readers, loopback=True, account="root"),
    )
    with serving(context) as address, closing(browser.new_context()) as session:
        opened = session.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto(f"{address}/models/m")
        assert opened.url == f"{address}/login?next=/models/m"
        opened.fill("input[name=key]", key[:-1] + ("A" if key[-1] != "A" else "B"))
        opened.click("button[type=submit]")
        opened.wait_for_selector(".problem")
        assert "not valid" in opened.inner_text(".problem")
        opened.fill("input[name=key]", key)
        opened.click("button[type=submit]")
        opened.wait_for_url(f"{address}/models/m")
        opened.wait_for_selector("#live[data-state=live]")
        (cookie,) = session.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        opened.get_by_role("button", name="Approve").click()
        opened.wait_for_selector("dialog[open]")
        assert opened.locator("dialog input[name=actor]").count() == 0
        opened.click("dialog button[type=submit]")
        opened.wait_for_selector("dialog[open]", state="hidden")
        with world.readers() as session_:
            assert world.registry.version(session_, "m", 1).stage == "promoted"
        opened.get_by_role("button", name="Log out").click()
        opened.wait_for_url(f"{address}/login")
        assert session.cookies() == []
        assert problems == []
    world.close()
