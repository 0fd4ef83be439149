"""Which version was live then, and why: each one question, on both databases, with and without an archive."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient

from agents.access.logic import Principal
from agents.alerting.tables import IncidentRow
from agents.archiving.files import open_files
from agents.archiving.tables import ArchiveFileRow
from agents.archiving.writer import ArchiveWriter, FlushRules
from agents.gateway.app import create_app
from agents.provenance import words
from agents.provenance.answers import Provenance
from agents.provenance.words import Section
from agents.registry import flags
from agents.registry.change import Change
from agents.registry.ledger import acting_for
from agents.registry.watched import observe
from agents.registry.watched import register as register_watched
from agents.retraining.tables import RunRow
from schemas.codec import SHADOW, encode, to_ms
from schemas.errors import NotFoundError
from schemas.events import Alert, ObserveVersion, Prediction, QualityMetric
from schemas.topics import ALERTS, PREDICTIONS, QUALITY_METRICS
from streams.kafka.records import Record
from tests.support.gateway import make_context
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ANN = Principal(kind="key", name="ann", authenticated=True, credential="a1b2")


@pytest.fixture
def asked(world: RegistryWorld, tmp_path: Path) -> Provenance:
    return Provenance(world.registry, world.readers, str(tmp_path / "archive"), clock=lambda: world.now)


def archive(world: RegistryWorld, folder: Path, values: Iterable[tuple[str, object, bool]]) -> None:
    """Archive what is given as (topic, value, in shadow)."""
    ends: dict[str, int] = {}
    records = []
    for topic, value, shadow in values:
        offset = ends.get(topic, 0)
        ends[topic] = offset + 1
        headers = [("ce_type", b"Prediction"), SHADOW] if shadow else None
        records.append(Record(topic, 0, offset, None, encode(value), headers, 1_700_000_000_000))
    writer = ArchiveWriter(open_files(str(folder)), world.sessions, "w", FlushRules())
    writer.claim(sorted((topic, 0) for topic in ends))
    writer.add(records, 0)
    writer.flush({(topic, 0): end for topic, end in ends.items()})


def predicted(version: int | str, at: datetime, name: str = "m", *, shadow: bool = False) -> tuple[str, object, bool]:
    value = Prediction(
        prediction_id=f"{version} {at}", model=name, version=version, event_time_ms=to_ms(at), features={}, prediction=1
    )
    return PREDICTIONS, value, shadow


def measured(
    version: int,
    day: int,
    value: float,
    *,
    segment: dict[str, str] | None = None,
    revision: int = 0,
    window: str = "7d",
) -> tuple[str, object, bool]:
    end = EVENT_TIME + day * DAY
    metric = QualityMetric(
        model="m",
        version=version,
        segment=segment,
        window=window,
        window_start=end - 7 * DAY,
        window_end=end,
        state="revised" if revision else "closed",
        revision=revision,
        n=100,
        coverage=0.9,
        metrics={"roc_auc": value},
    )
    return QUALITY_METRICS, metric, False


def incident(status: str, explanation: str) -> Alert:
    return Alert(
        incident_id="i1",
        model="m",
        version=1,
        kind="quality",
        subject="roc_auc",
        segment=None,
        severity="critical",
        status=status,  # type: ignore[arg-type]
        opened_at=EVENT_TIME + DAY,
        closed_at=EVENT_TIME + 2 * DAY if status == "closed" else None,
        title="roc_auc fell",
        explanation=explanation,
    )


def ran(world: RegistryWorld, version: int, trigger: str, incident_id: str | None = None) -> None:
    with world.sessions.begin() as session:
        session.add(
            RunRow(
                run_id=f"run{version}",
                request_id=f"request{version}",
                model="m",
                trigger=trigger,
                reason=f"reason of {version}",
                requested_by="alerting",
                incident_id=incident_id,
                as_of_ms=to_ms(EVENT_TIME + 2 * DAY),
                change_ms=to_ms(EVENT_TIME + DAY),
                status="finished",
                version=version,
                rows=12,
                created_at=world.now,
            )
        )


def history(world: RegistryWorld, folder: Path) -> dict[str, datetime]:
    """Version 1, replaced by 2 for an incident, 1 brought back by a person; 3 is rejected. When, by the clock."""
    world.model()
    at = {"before": world.now}
    world.candidate()
    ran(world, 1, "registration")
    at["first"] = world.now
    with world.sessions.begin() as session:
        closed = incident("closed", "no crossing since")
        row = {name: getattr(closed, name) for name in closed.__struct_fields__ if name not in {"segment", "links"}}
        session.add(IncidentRow(**row, segment=""))
    world.candidate()
    ran(world, 2, "quality", "i1")
    at["second"] = world.now
    with world.sessions.begin() as session:
        acting_for(session, ANN)
        world.registry.rollback(session, "m", 1, actor="ann", reason="it refuses half of Brooklyn")
    at["back"] = world.now
    world.candidate(passed=False)
    ran(world, 3, "schedule")
    hours = [predicted(1, EVENT_TIME + n * HOUR) for n in range(10)]
    hours += [predicted(2, EVENT_TIME + n * HOUR) for n in range(10, 20)]
    hours += [predicted(1, EVENT_TIME + n * HOUR, shadow=True) for n in range(10, 20)]
    hours += [predicted(1, EVENT_TIME + n * HOUR) for n in range(20, 30)]
    told = [(ALERTS, incident("opened", "roc_auc fell to 0.5"), False)]
    told += [(ALERTS, incident("closed", "no crossing since"), False)]
    series = [measured(1, day, 0.7 + day / 100) for day in range(1, 9)]
    series += [measured(1, 8, 0.5, revision=1), measured(1, 8, 0.4, segment={"x": "a"}), measured(2, 8, 0.9)]
    series += [measured(1, 9, 0.1, window=name) for name in ("1d", "5000n", "of another release")]
    archive(world, folder, [*hours, *told, *series])
    return at


def text(sections: list[Section]) -> str:
    return "\n".join(f"{label} {said}" for section in sections for label, said in [("", section.title), *section.lines])


def test_who_was_live_by_the_clock_at_every_moment(world: RegistryWorld, asked: Provenance, tmp_path: Path) -> None:
    at = history(world, tmp_path / "archive")
    for moment, wanted in (("first", (1, None, 2)), ("second", (2, 1, 1)), ("back", (1, 2, None))):
        found = asked.live("m", at[moment]).clock
        assert found is not None
        assert (found.version, found.before, found.after) == wanted
        assert found.since <= at[moment]
    reigns = [one for number in (1, 2) for one in asked.why("m", number).account.live]
    edges = sorted((one.since, one.until) for one in reigns)  # type: ignore[type-var]
    assert [until for _, until in edges[:-1]] == [since for since, _ in edges[1:]], "nobody in between"
    assert edges[-1][1] is None
    assert edges[0][0] <= at["first"]
    assert asked.live("m").clock == asked.live("m", at["back"]).clock, "now, where no moment is named"


def test_who_answered_by_event_time(world: RegistryWorld, asked: Provenance, tmp_path: Path) -> None:
    history(world, tmp_path / "archive")
    for hours, version, since, until, after in ((5, 1, 0, 9, "2"), (10, 2, 10, 19, "1"), (25, 1, 20, 29, None)):
        found = asked.live("m", EVENT_TIME + hours * HOUR)
        assert found.event_time is not None
        assert (found.event_time.version, found.event_time.predictions) == (version, 10)
        assert found.event_time.since == EVENT_TIME + since * HOUR
        assert found.event_time.until == EVENT_TIME + until * HOUR
        assert found.event_time.after == after
        assert found.clock is None, "years before the clock of the test"
        assert [one.version for one in found.versions] == [version]
    assert "until 2013-02-02 05:00:00" in text(words.live(asked.live("m", EVENT_TIME + 99 * HOUR)))


def test_the_account_says_who_let_it_and_what_it_was_made_of(world: RegistryWorld, asked: Provenance) -> None:
    world.model(mode="manual")
    types = ("my.Type",)
    version, _ = world.candidate(mode="manual", approvers=2, four_eyes=True, expires="1h", allowed=types)
    for actor, comment in (("ann", "looked at it"), ("bob", "me too")):
        with world.sessions.begin() as session:
            acting_for(session, msgspec.structs.replace(ANN, name=actor))
            world.registry.approve(session, "m", version, actor, comment, consented=types)
    (told,) = asked.live("m").versions
    assert told.policy == {"mode": "manual", "approvers": 2, "four_eyes": True, "expires": "1h"}
    assert told.requested is not None
    assert told.requested.actor == "retraining"
    assert [(one.actor, one.principal, one.authenticated, one.text) for one in told.approvals] == [
        ("ann", "key:ann", True, "looked at it"),
        ("bob", "key:bob", True, "me too"),
    ]
    assert [one.consented for one in told.approvals] == [["my.Type"]] * 2
    assert (told.code, told.data["rows"], told.environment) == ({"tree": "abc"}, 3, {"python": "3.11"})
    assert told.why_not == "it was trained elsewhere: there is no code here to make it again with"
    said = text(words.live(asked.live("m")))
    assert "2 people have to approve, none of them who asked, within 1h" in said
    assert "ann (key a1b2), 2026-01-01 00:00:" in said
    assert ": looked at it; agreed that its file may hold my.Type" in said


def test_what_a_lapsed_question_was_answered_with_counts_no_more(world: RegistryWorld, asked: Provenance) -> None:
    from agents.registry import approvals

    world.model(mode="manual")
    version, _ = world.candidate(mode="manual", approvers=2, expires="1h")
    with world.sessions.begin() as session:
        world.registry.approve(session, "m", version, "ann")
    world.now += 2 * HOUR
    with world.sessions.begin() as session:
        approvals.lapse_due(world.registry, session)
    with world.sessions.begin() as session:
        approvals.ask_again(world.registry, session, "m", version, "cyd")
    told = asked.why("m", version).account
    assert told.approvals == []
    assert told.requested is not None
    assert told.requested.actor == "cyd"


def test_why_a_version_came_and_why_it_went(world: RegistryWorld, asked: Provenance, tmp_path: Path) -> None:
    history(world, tmp_path / "archive")
    first, second, third = (asked.why("m", number) for number in (1, 2, 3))
    assert first.run is not None
    assert first.run.trigger == "registration"
    replaced, brought_back = first.endings
    assert (replaced.how, replaced.successor, brought_back.how) == ("promoted", 2, None)
    assert replaced.run is not None
    assert replaced.run.incident is not None
    assert replaced.run.incident.explanation == "roc_auc fell to 0.5", "as it was said first"
    assert (replaced.run.incident.status, replaced.run.incident.closed_at) == ("closed", EVENT_TIME + 2 * DAY)
    assert [one.incident_id for one in first.incidents] == ["i1"]
    assert [(one.window_end, one.segment, one.metrics["roc_auc"]) for one in first.quality][:3] == [
        (EVENT_TIME + 8 * DAY, "", 0.5),
        (EVENT_TIME + 8 * DAY, "x=a", 0.4),
        (EVENT_TIME + 7 * DAY, "", 0.77),
    ]
    assert len({one.window_end for one in first.quality}) == 5
    (ending,) = second.endings
    assert (ending.how, ending.successor, ending.run) == ("rolled-back", 1, None)
    assert ending.by is not None
    assert (ending.by.actor, ending.by.text) == ("ann", "it refuses half of Brooklyn")
    assert third.endings == []
    assert third.account.rejected is not None
    said = text(words.why(second))
    assert "brought back by ann (key a1b2), 2026-01-01 00:00:" in said
    assert "it refuses half of Brooklyn" in said
    assert "roc_auc fell to 0.5" in said, "why it came"
    assert "it was rejected and never champion" in text(words.why(third))


def test_without_an_archive_the_registry_still_answers(world: RegistryWorld, asked: Provenance, tmp_path: Path) -> None:
    world.model()
    world.candidate()
    found = asked.live("m")
    assert found.clock is not None
    assert found.event_time is None
    assert found.notes == ["by event time none is known: the archive has no prediction of it"]
    why = asked.why("m", 1)
    assert (why.run, why.incidents, why.quality) == (None, [], [])
    assert any("no window of it is in the archive" in note for note in why.notes)
    # A file that is gone takes its part of the answer away, and no more.
    archive(world, tmp_path / "archive", [predicted(1, EVENT_TIME)])
    for file in (tmp_path / "archive").rglob("*.parquet"):
        file.unlink()
    assert "the archive cannot be read" in text(words.live(asked.live("m")))
    with world.readers() as session:
        assert session.query(ArchiveFileRow).count() == 1


@pytest.mark.parametrize("archived", [False, True])
def test_what_is_not_there_is_said_with_where_and_remedy(
    world: RegistryWorld, asked: Provenance, tmp_path: Path, *, archived: bool
) -> None:
    with pytest.raises(NotFoundError, match="no model 'm'"):
        asked.live("m")
    at = history(world, tmp_path / ("archive" if archived else "other"))
    with world.sessions.begin() as session:
        world.registry.register_model(session, spec_text("empty"), "ann")
    with pytest.raises(NotFoundError, match="no version 9 of m"):
        asked.why("m", 9)
    with pytest.raises(NotFoundError, match="no model 'nix'"):
        asked.why("nix", 1)
    with pytest.raises(NotFoundError) as refused:
        asked.live("m", EVENT_TIME - DAY)
    told = "is of 2013-02-01T00:00:00Z" if archived else "has no prediction of it"
    assert told in refused.value.what
    assert "the first, version 1, became champion at 2026-01-01T00:00:" in refused.value.what
    assert refused.value.where == "model m"
    assert "driftline versions m" in refused.value.remedy
    with pytest.raises(NotFoundError, match="no version of it was ever promoted"):
        asked.live("empty", at["first"])
    if not archived:
        with pytest.raises(NotFoundError, match="it is 2026-01-01"):
            asked.live("m", world.now + DAY)


def test_a_watched_model_answers_by_the_names_of_its_versions(
    world: RegistryWorld, asked: Provenance, tmp_path: Path
) -> None:
    with world.sessions.begin() as session:
        register_watched(world.registry, session, spec_text("w"), "ann", window="14d")
    for number, name in enumerate(("2024-rc1", "7")):
        with world.sessions.begin() as session:
            at = EVENT_TIME + number * DAY
            observe(
                world.registry, session, ObserveVersion(command_id=name, model="w", actor="m", external=name, at=at)
            )
    archive(
        world,
        tmp_path / "archive",
        [
            predicted("2024-rc1", EVENT_TIME, "w"),
            predicted(7, EVENT_TIME + DAY, "w"),
            predicted("new", EVENT_TIME + 2 * DAY, "w"),
        ],
    )
    seen = [asked.live("w", EVENT_TIME + day * DAY) for day in range(3)]
    named = [(one.event_time.called, one.event_time.version) for one in seen if one.event_time is not None]
    assert named == [("2024-rc1", 1), ("7", 7), ("new", None)]
    assert "only watched (called 2024-rc1 elsewhere)" in text(words.live(seen[0]))
    assert "appeared as 7 in the predictions" in text(words.why(asked.why("w", 7)))
    assert "version new (not registered here)" in text(words.live(seen[2]))


def test_a_flag_is_part_of_the_answer(world: RegistryWorld, asked: Provenance) -> None:
    world.model()
    world.candidate()
    with world.sessions.begin() as session:
        flags.flag(Change.of(session, "m", world.registry.now()), 1, "ann", "labels were shuffled")
    assert "flagged faulty: labels were shuffled (ann)" in text(words.why(asked.why("m", 1)))


def test_the_same_over_http_and_on_the_page(world: RegistryWorld, asked: Provenance, tmp_path: Path) -> None:
    history(world, tmp_path / "archive")
    context = replace(make_context(days=2)[0], provenance=asked)
    with TestClient(create_app(context), base_url="http://127.0.0.1") as client:
        at = (EVENT_TIME + 10 * HOUR).isoformat()
        live = client.get("/api/models/m/live", params={"at": at})
        assert live.status_code == 200
        assert live.content == msgspec.json.encode(asked.live("m", EVENT_TIME + 10 * HOUR))
        why = client.get("/api/models/m/versions/2/why").json()
        assert why == json.loads(msgspec.json.encode(asked.why("m", 2)))
        assert client.get("/api/models/m/live", params={"at": "2001-01-01T00:00:00Z"}).status_code == 404
        assert client.get("/api/models/m/live", params={"at": "yesterday"}).status_code == 400
        assert client.get("/api/models/m/versions/9/why").status_code == 404
        shown = client.get("/models/m/versions/2/why").text
        assert "it refuses half of Brooklyn" in shown
        assert "no version 9 of m" in client.get("/models/m/versions/9/why").text
