"""Routes over a board and a registry in memory."""

from __future__ import annotations

import hashlib
import html
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import agents.gateway
from agents.gateway.app import create_app
from agents.gateway.context import Context
from agents.gateway.security import refusal
from agents.gateway.shared import SharedBoard
from schemas.errors import BrokerUnreachableError
from tests.support.gateway import MODEL, MemoryRegistry, make_context
from tests.unit.agents.alerting.test_fleet import Fleet, missing

HERE = Path(agents.gateway.__file__).parent
BASE = "http://127.0.0.1:8787"


@pytest.fixture
def page() -> Iterator[tuple[TestClient, MemoryRegistry, Context]]:
    context, registry = make_context(days=40)
    with TestClient(create_app(context), base_url=BASE) as client:
        yield client, registry, context


Page = tuple[TestClient, MemoryRegistry, Context]


def test_one_model_opens_at_once(page: Page) -> None:
    client, _, _ = page
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.url.path == f"/models/{MODEL}"
    for text in ("Quality", "Incidents", "Versions", "Approve", "Roll back to 2", "roc_auc has fallen"):
        assert text in answer.text
    assert "https://" not in answer.text, "nothing is loaded from another host"


def test_the_lineage_of_a_dataset_is_drawn(page: Page) -> None:
    client, _, _ = page
    assert 'href="/lineage"' in client.get("/models").text
    asked = client.get("/lineage", params={"kind": "dataset", "name": " trips@1 "})
    assert f'href="/models/{MODEL}">{MODEL} 1</a>' in asked.text
    source = html.unescape(re.search(r'href="(/lineage\.svg[^"]*)"', asked.text)[1])  # type: ignore[index]
    drawn = client.get(source)
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert f"{MODEL} 1" in drawn.text
    shown = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', asked.text)[1]  # type: ignore[index]
    assert b64decode(shown).decode() == drawn.text, "what the page shows was worked out once, with its list"
    for params, said in (
        ({"kind": "dataset", "name": "<b>"}, "no version was made from dataset &lt;b&gt;"),
        ({"kind": "package", "name": "numpy"}, "choose one of dataset, run, commit"),
    ):
        answer = client.get("/lineage", params=params)
        assert answer.status_code == 200
        assert said in answer.text
        assert client.get("/lineage.svg", params=params).status_code >= 400


def test_an_incident_of_many_models_is_on_both_pages_with_whom_it_hits(page: Page) -> None:
    client, _, context = page
    fleet = Fleet(20)
    for model in (MODEL, "second", "third"):
        fleet.take(missing(model, 1, segment="origin=EWR"))
    (shared,) = fleet.fleet_incidents().values()
    with context.board.use() as board:
        board.add_alert(shared)
    assert client.get("/api/incidents?status=open").json()["incidents"][0]["incident_id"] == shared.incident_id
    listed = client.get(f"/api/models/{MODEL}/incidents?status=open").json()["incidents"]
    assert shared.incident_id in {each["incident_id"] for each in listed}
    for path in ("/models", f"/models/{MODEL}", f"/models/{MODEL}/parts/incidents"):
        text = client.get(path).text
        assert "3 models: temp is unusable" in text
        assert "blast radius: 3 models (3 still affected), 3 versions" in text
        assert "third v1: data-quality, warning, value 0.9" in text


def test_without_models_the_page_says_how_to_begin() -> None:
    context = Context(SharedBoard(), MemoryRegistry(), threading.Event())
    with TestClient(create_app(context), base_url=BASE) as client:
        assert "driftline init" in client.get("/").text


@pytest.mark.parametrize(
    ("method", "path", "body", "stage"),
    [
        ("approve", "versions/4/approve", {"actor": "ann", "comment": "fine"}, "promoted"),
        ("reject", "versions/4/reject", {"actor": "ann", "reason": "no"}, "rejected"),
    ],
)
def test_decisions_go_to_the_registry(page: Page, method: str, path: str, body: dict[str, str], stage: str) -> None:
    client, registry, _ = page
    answer = client.post(f"/api/models/{MODEL}/{path}", json=body)
    assert answer.status_code == 200
    assert registry.stages[4].stage == stage
    assert registry.decisions == [(method, 4, "ann", body.get("comment", body.get("reason")))]
    again = client.post(f"/api/models/{MODEL}/{path}", json=body)
    assert again.status_code == 409
    assert "somebody else was first" in again.json()["error"]["remedy"]
    assert len(registry.decisions) == 1


def test_rollback_names_the_version(page: Page) -> None:
    client, registry, _ = page
    answer = client.post(f"/api/models/{MODEL}/rollback", json={"to": 2, "actor": "ann", "reason": "worse"})
    assert answer.json() == {"model": MODEL, "version": 2, "done": "rolled back"}
    assert registry.champion == 2


def test_with_the_database_down_nothing_changes_and_the_page_still_shows_the_series(page: Page) -> None:
    client, registry, _ = page
    registry.down = True
    answer = client.post(f"/api/models/{MODEL}/versions/4/approve", json={})
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "DatabaseUnavailableError"
    assert registry.decisions == []
    shown = client.get(f"/models/{MODEL}", headers={"accept": "text/html"})
    assert shown.status_code == 200
    assert "The registry does not answer" in shown.text
    assert client.get(f"/api/models/{MODEL}/series?metric=roc_auc&window=7d").json()["lines"]


def test_the_dialog_carries_what_was_seen_and_shows_a_refusal(page: Page) -> None:
    client, registry, _ = page
    path = f"/models/{MODEL}/versions/4/approve"
    assert "Approve version 4?" in client.get(path).text
    done = client.post(path, data={"actor": "ann", "reason": ""})
    assert (done.status_code, done.headers["hx-trigger"]) == (204, "decided")
    refused = client.post(path, data={"actor": "<b>ann", "reason": "again"})
    assert refused.status_code == 200
    assert "version 4 is promoted" in refused.text
    assert "&lt;b&gt;ann" in refused.text
    assert "<b>ann" not in refused.text
    assert registry.champion == 4


def test_whoever_approves_is_shown_what_the_file_may_hold_and_agrees_to_each(page: Page) -> None:
    client, registry, _ = page
    light, known = "lightgbm.sklearn.LGBMClassifier", "own_models.Known"
    registry.stages[4] = replace(registry.stages[4], allowed_types=[light, known])
    registry.stages[3] = replace(registry.stages[3], allowed_types=[known])
    assert registry.champion == 3
    assert light in client.get(f"/models/{MODEL}/parts/versions").text
    path = f"/models/{MODEL}/versions/4/approve"
    dialog = client.get(path).text
    assert f'name="allow_type" value="{light}" required' in dialog
    assert known not in dialog, "the champion's file may hold it"
    assert "allow_type" not in client.get(path.replace("approve", "reject")).text
    refused = client.post(path, data={"actor": "ann"})
    assert "nobody agreed to yet" in refused.text
    assert registry.champion == 3
    api = f"/api/models/{MODEL}/versions/4/approve"
    assert client.post(api, json={"actor": "ann"}).status_code == 409
    assert client.post(api, json={"actor": "ann", "allow_types": light}).status_code == 400
    listed = {each["version"]: each for each in client.get(f"/api/models/{MODEL}/versions").json()["versions"]}
    assert listed[4]["allowed_types"] == [light, known]
    assert client.post(path, data={"actor": "ann", "allow_type": [light]}).status_code == 204
    assert registry.champion == 4


def test_series_carry_what_is_drawn_over_them(page: Page) -> None:
    client, _, _ = page
    body = client.get(
        f"/api/models/{MODEL}/series", params={"metric": "roc_auc", "window": "1d", "segment": "origin=JFK"}
    )
    line = body.json()["lines"][0]
    assert line["version"] == 1
    assert len(line["t"]) == len(line["y"]) == len(line["n"]) == len(line["state"]) == 40
    assert line["t"] == sorted(line["t"])
    assert {swap["version"] for swap in body.json()["swaps"]} == {1, 2, 3}
    assert body.json()["incidents"][0]["severity"] == "warning"


@pytest.mark.parametrize(
    "path",
    ["/api/models", "/api/models/{m}/versions", "/api/models/{m}/options", "/api/models/{m}/incidents?status=open",
     "/api/models/{m}/activity", "/api/models/{m}/drift?window=7d", "/api/accounting", "/api/openapi.json",
     "/models", "/models/{m}/parts/tiles", "/models/{m}/parts/incidents", "/models/{m}/parts/versions",
     "/models/{m}/parts/activity", "/models/{m}/parts/drift?statistic=jensen_shannon", "/parts/accounting",
     "/static/app.css", "/static/app.js"],
)  # fmt: skip
def test_every_route_answers(page: Page, path: str) -> None:
    client, _, _ = page
    assert client.get(path.format(m=MODEL)).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/nobody", 404),
        ("/api/models/nobody/versions", 404),
        ("/models/{m}/parts/nonsense", 404),
        ("/models/{m}/versions/4/explode", 404),
        ("/api/models/{m}/series", 400),
        ("/api/models/{m}/incidents?status=odd", 400),
    ],
)
def test_what_is_not_there_is_said(page: Page, path: str, status: int) -> None:
    client, _, _ = page
    assert client.get(path.format(m=MODEL)).status_code == status


def test_a_model_that_was_never_seen_makes_no_board(page: Page) -> None:
    client, _, context = page
    client.get("/api/models/nobody/options")
    client.get("/models/nobody/parts/tiles")
    with context.board.use() as board:
        assert list(board.models) == [MODEL]


def test_health() -> None:
    def down() -> str:
        raise BrokerUnreachableError("no broker answers at b:9092")

    context, _ = make_context({"broker": down, "database": lambda: "1 model"}, days=2)
    with TestClient(create_app(context), base_url=BASE) as client:
        assert client.get("/livez").text == "ok\n"
        assert client.get("/readyz").status_code == 503
        verbose = client.get("/readyz?verbose")
        assert verbose.status_code == 503
        assert verbose.json() == {
            "ready": False,
            "checks": {"broker": "failed: no broker answers at b:9092", "database": "1 model", "history": "ok"},
        }
    context, _ = make_context({"database": lambda: ""}, days=2)
    with TestClient(create_app(context), base_url=BASE) as client:
        assert client.get("/readyz").status_code == 200
        context.board.caught_up = False
        assert client.get("/readyz").status_code == 503


def test_prometheus_reads_the_metrics(page: Page) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client, _, _ = page
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    places = {s.labels["place"]: s.value for s in families["driftline_records"].samples}
    assert places["expired"] == 4 * 1198
    assert "pending" not in places
    assert {s.labels["place"] for s in families["driftline_waiting_records"].samples} == {
        "pending", "labelled", "labels.waiting",
    }  # fmt: skip
    assert sum(s.value for s in families["driftline_open_incidents"].samples) == 1
    assert all(0 <= s.value <= 1 for s in families["driftline_coverage_ratio"].samples)
    estimates = {s.name: s for f in families.values() for s in f.samples if s.labels.get("version") == "1"}
    low, value, high = (estimates[f"driftline_estimated_quality{end}"].value for end in ("_low", "", "_high"))
    assert high - value == pytest.approx(value - low) == pytest.approx(0.1)
    assert estimates["driftline_estimated_quality"].labels["metric"] == "roc_auc"
    assert estimates["driftline_estimate_trust_ratio"].value == 0.7
    assert all("_id" not in label for f in families.values() for s in f.samples for label in s.labels)


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("GET", {"host": "127.0.0.1:8787"}, True),
        ("GET", {"host": "localhost:1"}, True),
        ("GET", {"host": "[::1]:8787"}, True),
        ("GET", {"host": "evil.example"}, False),
        ("POST", {"host": "127.0.0.1:8787"}, True),
        ("POST", {"host": "127.0.0.1:8787", "sec-fetch-site": "same-origin"}, True),
        ("POST", {"host": "127.0.0.1:8787", "sec-fetch-site": "cross-site"}, False),
        ("POST", {"host": "127.0.0.1:8787", "sec-fetch-site": "same-site"}, False),
        ("POST", {"host": "127.0.0.1:8787", "origin": "http://127.0.0.1:8787"}, True),
        ("POST", {"host": "127.0.0.1:8787", "origin": "http://evil.example"}, False),
        ("POST", {"host": "127.0.0.1:8787", "origin": "null"}, False),
    ],
)
def test_only_the_page_itself_and_programs_may_change_something(
    method: str, headers: dict[str, str], allowed: bool
) -> None:
    assert (refusal(method, headers, bound_to="127.0.0.1") is None) == allowed


def test_bound_elsewhere_any_host_is_answered() -> None:
    assert refusal("GET", {"host": "driftline.example"}, bound_to="0.0.0.0") is None


def test_a_foreign_page_cannot_approve(page: Page) -> None:
    client, registry, _ = page
    answer = client.post(f"/api/models/{MODEL}/versions/4/approve", json={}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert registry.decisions == []


def test_answers_forbid_foreign_content(page: Page) -> None:
    client, _, _ = page
    headers = client.get("/models").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_vendored_files_are_what_their_readme_says() -> None:
    folder = HERE / "static" / "vendor"
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M))
    present = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.suffix in {".js", ".css"}
    }
    assert listed == present
    base = (HERE / "templates" / "base.html").read_text()
    assert all(f"/static/vendor/{name}" in base for name in present)


def test_all_the_page_loads_is_ours() -> None:
    texts = [file.read_text() for file in (HERE / "templates").rglob("*.html")]
    texts += [(HERE / "static" / name).read_text() for name in ("app.js", "app.css", "theme.js")]
    assert not [text for text in texts if re.search(r"""(src|href|url\(|fetch\()\s*=?\s*["'(]?(https?:)?//""", text)]


def test_the_gateway_starts_without_the_heavy_libraries() -> None:
    import subprocess
    import sys

    program = "import sys, agents.gateway.agent; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "pandas", "scipy", "duckdb", "pyarrow", "faust"} & set(loaded)
