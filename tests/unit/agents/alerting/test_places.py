"""Segments that fall silent: one incident of them all, with the whole or with the drift that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.alerting.incident import Effects
from agents.alerting.logic import AlertBook
from schemas.events import Alert, Observation, PaneClosed
from streams.aggregate import AggregatePartition
from tests.support.replay import DAY as REPLAYED_DAY
from tests.support.replay import watermark
from tests.support.simulate import learn, watching
from tests.support.troubles import CALM, TROUBLES, record_with
from tests.unit.agents.alerting.test_fleet import Fleet
from tests.unit.agents.alerting.test_logic import drift, observation, pane, spec

replaced = msgspec.structs.replace
SPEC = spec()


def silent(day: int, segment: str = "origin=JFK", **over: Any) -> Observation:
    values: dict[str, Any] = {
        "kind": "data-quality",
        "segment": segment,
        "severity": "critical",
        "window": "pane",
        "value": 0.0,
        "reference": 302.0,
        "threshold": 121.5,
        "n": 0,
        "evidence": {"statistic": "predictions", "p": 1e-4, "p_value": 1e-9, "rest": 0.98},
    }
    return observation(day, "volume", **{**values, **over})


def vanished(day: int, importance: float = 0.05, **over: Any) -> Observation:
    values: dict[str, Any] = {
        "window": "1d",
        "value": 0.33,
        "reference": 0.0,
        "threshold": 0.02,
        "severity": "critical",
        "evidence": {"importance": importance, "statistic": "vanished_share"},
    }
    return drift(day, "origin", importance, **{**values, **over})


def everywhere(day: int, **over: Any) -> Observation:
    return silent(day, "", **{"value": 3.0, "reference": 900.0, **over})


def alerts(book: AlertBook, observations: Iterable[Observation]) -> list[Alert]:
    out = Effects()
    for one in observations:
        out.extend(book.observed(one, SPEC))
    return [alert for _, alert in out.alerts]


def opened(found: Iterable[Alert]) -> list[str]:
    return [alert.incident_id for alert in found if alert.status == "opened"]


def still_open(book: AlertBook) -> list[str]:
    return [incident.incident_id for incident in book.incidents.values() if incident.closed_ms is None]


def test_a_silent_segment_is_an_incident_in_words_with_numbers() -> None:
    (alert,) = alerts(AlertBook(model="m"), [silent(1)])
    assert (alert.status, alert.kind, alert.subject, alert.severity) == ("opened", "data-quality", "volume", "critical")
    assert alert.segment == {"origin": "JFK"}
    assert alert.title == "m v1: the number of predictions in a pane in origin=JFK fell to 0 (reference 302)"
    assert "from everywhere else came 98% of the usual" in alert.explanation
    assert "the alarm stands below 122" in alert.explanation


def test_segments_that_fall_silent_are_one_incident() -> None:
    book = AlertBook(model="m")
    found = alerts(book, [silent(1), silent(1, "origin=LGA"), silent(2, "carrier=UA")])
    assert len(found) == 1
    ((_, update),) = book.pane_closed(pane(2), SPEC).alerts
    assert update.status == "updated"
    (affected,) = update.evidence["blast_radius"]["affected"]
    assert sorted(affected["segments"]) == ["carrier=UA", "origin=JFK", "origin=LGA"]
    assert "origin=LGA fell to 0" in update.explanation


def test_it_goes_on_in_that_of_the_whole_and_none_opens_beside_it() -> None:
    book = AlertBook(model="m")
    ((own,), whole) = (opened(alerts(book, [silent(1)])), alerts(book, [everywhere(2)]))
    assert [(a.status, a.incident_id == own) for a in whole] == [("opened", False), ("closed", True)]
    assert "The whole is affected" in whole[1].explanation
    assert alerts(book, [silent(2, "origin=LGA")]) == []
    assert len(still_open(book)) == 1
    assert alerts(book, [everywhere(3, status="closed")]) == []
    assert len(still_open(book)) == 1  # as long as any of them lasts


def test_a_category_that_vanished_is_told_with_the_segment_that_fell_silent() -> None:
    book = AlertBook(model="m")
    found = alerts(book, [silent(1), vanished(1)])
    assert len(opened(found)) == 1
    ((_, update),) = book.pane_closed(pane(1), SPEC).alerts
    (cause,) = update.evidence["causes"]
    assert (cause["subject"], cause["statistic"]) == ("feature:origin", "vanished_share")
    assert "origin (vanished_share 0.330" in update.explanation


@pytest.mark.parametrize("importance", [0.05, 0.9])
@pytest.mark.parametrize("window", ["1d", "7d"])
def test_whichever_came_first_they_are_one_incident(importance: float, window: str) -> None:
    """Of 0.9 of the model's importance, and in the week's window, drift alone is an incident."""
    told = [silent(2), vanished(2, importance, window=window)]
    for order in (told, told[::-1]):
        book = AlertBook(model="m")
        found = alerts(book, order)
        assert len(still_open(book)) == len(opened(found)) == 1
        (incident,) = [i for i in book.incidents.values() if i.closed_ms is None]
        assert "origin=JFK" in {crossing.segment for crossing in incident.members.values()}
        over = [silent(4, status="closed"), vanished(4, importance, window=window, status="closed")]
        for one in over if order is told else over[::-1]:
            assert opened(alerts(book, [one])) == []
        closed = [a for day in (4, 5, 6, 7) for _, a in book.pane_closed(pane(day), SPEC).alerts]
        assert [a.status for a in closed if a.status == "closed"] == ["closed"]
        assert still_open(book) == []


def test_drift_of_something_else_stays_apart() -> None:
    book = AlertBook(model="m")
    found = alerts(book, [silent(1), drift(1, "distance", 0.9)])
    assert len(opened(found)) == 2


def test_beside_lost_quality_it_is_told_by_itself() -> None:
    """It would be the last of the causes, and nobody would look for the feed that broke."""
    book = AlertBook(model="m")
    found = alerts(book, [observation(1), silent(2), vanished(2, 0.3)])
    assert [(a.status, a.kind) for a in found] == [("opened", "quality"), ("opened", "data-quality")]
    (quality, places) = (i for i in book.incidents.values() if i.closed_ms is None)
    told = {a.kind: a for _, a in book.pane_closed(pane(2), SPEC).alerts}
    assert (quality.kind, places.kind) == ("quality", "data-quality")
    assert [c["subject"] for c in told["quality"].evidence["causes"]] == ["feature:origin"]


def test_the_same_segment_comes_back_as_the_same_incident_and_another_as_another() -> None:
    book = AlertBook(model="m")
    (first,) = opened(alerts(book, [silent(1)]))
    alerts(book, [silent(3, status="closed")])
    for day in (4, 5, 6):
        book.pane_closed(pane(day), SPEC)
    assert still_open(book) == []
    (back,) = alerts(book, [silent(7)])
    assert (back.status, back.incident_id) == ("updated", first)
    alerts(book, [silent(8, status="closed")])
    for day in (9, 10, 11):
        book.pane_closed(pane(day), SPEC)
    (other,) = opened(alerts(book, [silent(12, "origin=LGA")]))
    assert other != first


def test_too_likely_for_the_fleet_it_opens_nothing() -> None:
    book = AlertBook(model="m")
    share = SPEC.budget_per_ms / 18_000
    assert book.observed(silent(1, evidence={"p": 1e-4, "p_value": 5e-5}), SPEC, share).alerts == []
    assert len(book.observed(silent(2, evidence={"p": 1e-4, "p_value": 1e-12}), SPEC, share).alerts) == 1


def test_a_region_that_falls_silent_in_many_models_is_one_incident() -> None:
    """An upstream feed: some models are silent there, others altogether."""
    fleet = Fleet(40)
    for number in range(6):
        model = f"m{number}"
        fleet.take(replaced(silent(1) if number else everywhere(1), model=model, observation_id=f"o{number}"))
    for number in range(6):
        fleet.take(replaced(pane(2), model=f"m{number}"))
    ((_, alert),) = fleet.fleet_incidents().items()
    assert alert.status in {"opened", "updated"}
    assert "predictions stay away" in alert.title
    assert "or none from some segments, in 6 of 40 models" in alert.explanation
    assert alert.evidence["blast_radius"]["segments"] == {"origin=JFK": 5}


@settings(max_examples=60, deadline=None)
@given(st.permutations([silent(1), silent(1, "origin=LGA"), vanished(1, 0.9), vanished(1, 0.9, window="7d")]))
def test_in_any_order_one_incident_is_open_and_no_more_opened(order: list[Observation]) -> None:
    book = AlertBook(model="m")
    found: list[Alert] = []
    for one in order:
        found += alerts(book, [one])
        book = AlertBook.from_snapshot(book.snapshot())
    assert len(opened(found)) == len(still_open(book)) == 1
    (incident,) = [i for i in book.incidents.values() if i.closed_ms is None]
    assert {"origin=JFK", "origin=LGA"} <= {crossing.segment for crossing in incident.members.values()}


# ------------------------------------------------------------------------------------------ what detectors really say


@pytest.mark.parametrize(("name", "group"), [("segment-silence", "places"), ("silence", "data-quality")])
def test_of_a_stream_one_incident_comes(name: str, group: str) -> None:
    """Of a region that falls silent and vanishes from a feature; and of an outage, in which every region is silent."""
    plan = learn(watching(windows=("1d", "7d")), CALM, 14, np.random.default_rng(1))
    trouble = replace(TROUBLES[name], since=24)
    rng = np.random.default_rng(2)
    aggregate = AggregatePartition(1, lambda model, version: plan)
    book, found, seen = AlertBook(model="m"), [], set()
    for day in range(29):
        record = record_with(plan, trouble, day, rng)
        if record is not None:
            aggregate.merge(record)
        effects = Effects()
        for event in aggregate.merge(watermark((day + 1) * REPLAYED_DAY)):
            if isinstance(event, Observation):
                seen.add((event.kind, event.subject, event.segment is None))
                effects.extend(book.observed(event, plan.spec))
            elif isinstance(event, PaneClosed):
                effects.extend(book.pane_closed(event, plan.spec))
        found += [alert for _, alert in effects.alerts]
    assert len(opened(found)) == 1, [(a.status, a.title) for a in found]
    (incident,) = book.incidents.values()
    assert incident.group == group
    assert ("data-quality", "volume", name == "silence") in seen
    assert (("data-drift", "feature:origin", True) in seen) == (name == "segment-silence")
