"""Incidents of many models: when they open, what they say, who speaks; the order of arrival does not matter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.alerting.fleet import LEAST_MODELS, FleetBook, FleetIncident, milestone, needed_models
from agents.alerting.logic import AlertBook
from agents.alerting.standing import Standing, standings
from agents.alerting.together import join_fleet
from schemas.codec import segment_of, utc
from schemas.events import FLEET, Alert, Observation, PaneClosed
from schemas.specification import Specification, parse

DAY = 86_400_000
START = 1_370_044_800_000

SPEC = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "3d"
[features]
temp = "numeric"
dew = "numeric"
[metrics]
primary = "roc_auc"
windows = ["1d"]
[alarms]
budget = "1/300d"
"""


def spec() -> Specification:
    return parse(SPEC)


class Fleet:
    """Books of many models and of the fleet, as the agent holds them."""

    def __init__(self, models: int = 0) -> None:
        self.fleet = FleetBook(models)
        self.books: dict[str, AlertBook] = {}
        self.alerts: list[Alert] = []
        self.ids: list[str] = []

    def book(self, model: str) -> AlertBook:
        return self.books.setdefault(model, AlertBook(model=model))

    def take(self, event: Observation | PaneClosed) -> list[Alert]:
        new = event.model not in self.books
        self.fleet.models = max(self.fleet.models, len(self.books) + new)
        book = self.book(event.model)
        decided = book.observed(event, spec()) if isinstance(event, Observation) else book.pane_closed(event, spec())
        told = join_fleet(self.fleet, book, decided, standings(book, spec()), self.book)
        self.ids += [event_id for event_id, _ in told]
        self.alerts += [alert for _, alert in told]
        return [alert for _, alert in told]

    def newest(self) -> dict[str, Alert]:
        return {alert.incident_id: alert for alert in self.alerts}

    def fleet_incidents(self) -> dict[str, Alert]:
        return {key: alert for key, alert in self.newest().items() if alert.model == FLEET}


def crossing(model: str, day: float, subject: str = "roc_auc", **over: Any) -> Observation:
    status = over.pop("status", "opened")
    segment = over.pop("segment", "")
    at = START + round(day * DAY)
    values: dict[str, Any] = {
        "observation_id": f"{model}-{subject}-{segment}-{day}-{status}",
        "model": model,
        "version": 1,
        "kind": "quality",
        "subject": subject,
        "segment": segment_of(segment),
        "status": status,
        "severity": "warning",
        "window": "1d",
        "window_start": utc(at - DAY),
        "window_end": utc(at),
        "value": 0.641,
        "reference": 0.702,
        "threshold": 0.68,
        "n": 5120,
        "observed_at": utc(at),
    }
    return Observation(**{**values, **over})


def drift(model: str, day: float, name: str = "temp", importance: float = 0.6, **over: Any) -> Observation:
    values: dict[str, Any] = {
        "kind": "data-drift",
        "value": 2.5,
        "reference": 0.05,
        "threshold": 0.25,
        "evidence": {"importance": importance, "statistic": "psi"},
    }
    return crossing(model, day, f"feature:{name}", **{**values, **over})


def missing(model: str, day: float, name: str = "temp", **over: Any) -> Observation:
    values: dict[str, Any] = {
        "kind": "data-quality",
        "value": 0.9,
        "reference": 0.01,
        "threshold": 0.05,
        "evidence": {"importance": 0.3, "statistic": "unusable_rate", "missing": 4608, "invalid": 0},
    }
    return crossing(model, day, f"feature:{name}", **{**values, **over})


def pane(model: str, day: float) -> PaneClosed:
    at = START + round(day * DAY)
    return PaneClosed(model=model, pane_start=utc(at - DAY), pane_end=utc(at), observed_at=utc(at), labelled=100)


def test_two_models_are_two_incidents_and_the_third_makes_it_one() -> None:
    fleet = Fleet(20)
    assert [a.status for a in fleet.take(drift("a", 1))] == ["opened"]
    assert [a.model for a in fleet.take(drift("b", 1))] == ["b"]
    third = fleet.take(drift("c", 1))
    assert [(a.model, a.status) for a in third] == [(FLEET, "opened"), ("a", "closed"), ("b", "closed")]
    opened = third[0]
    assert (opened.version, opened.subject, opened.kind, opened.segment) == (0, "feature:temp", "data-drift", None)
    for alert in third[1:]:
        assert opened.incident_id in alert.explanation
        assert alert.evidence["fleet_incident"] == opened.incident_id
    assert fleet.take(drift("d", 1)) == []  # joins silently
    assert fleet.take(pane("d", 1)) == []
    (update,) = fleet.take(pane("d", 2))
    assert (update.incident_id, update.status) == (opened.incident_id, "updated")
    assert update.evidence["blast_radius"]["models"] == 4


def test_the_blast_radius_names_models_versions_segments_and_traffic_with_numbers() -> None:
    fleet = Fleet(20)
    fleet.take(missing("a", 1, n=100, segment="origin=EWR"))
    fleet.take(missing("b", 1, n=200, value=0.5))
    (alert, *_) = fleet.take(missing("c", 1, n=5120, version=7))
    assert alert.kind == "data-quality"
    radius = alert.evidence["blast_radius"]
    assert (radius["models"], radius["active"], radius["events"]) == (3, 3, 5420)
    assert radius["segments"] == {"origin=EWR": 1}
    assert {(entry["model"], entry["version"]) for entry in radius["affected"]} == {("a", 1), ("b", 1), ("c", 7)}
    assert radius["names"] == ["c", "b", "a"]  # the most traffic first
    for part in ("temp has unusable values in 3 of 20 models", "0.500 to 0.900", "c v7", "n = 5,120", "origin=EWR"):
        assert part in alert.explanation
    assert alert.title == "3 models: temp is unusable"


def test_lost_quality_with_one_feature_as_the_common_cause_is_about_the_feature() -> None:
    fleet = Fleet(20)
    for model in "abc":
        fleet.take(drift(model, 1, importance=0.1))  # not enough to act by itself
        assert not [a for a in fleet.alerts if a.model == model]
    for model in "abc":
        fleet.take(crossing(model, 1.5))
    (incident,) = fleet.fleet_incidents().values()
    assert (incident.subject, incident.kind) == ("feature:temp", "data-drift")
    assert "uality fell in 3 of them" in incident.explanation
    assert incident.evidence["blast_radius"]["quality_lost"] == 3


def test_quality_without_a_common_feature_and_labels_that_stay_away() -> None:
    fleet = Fleet(4)
    for model in "abcd":
        fleet.take(crossing(model, 1))
    for model in "efgh":
        fleet.take(crossing(model, 1, "coverage", kind="coverage", value=0.1, reference=0.9, severity="critical"))
    assert {a.subject for a in fleet.fleet_incidents().values()} == {"quality", "labels"}


def test_two_features_of_one_feed_are_one_incident() -> None:
    fleet = Fleet(20)
    for model in "abcd":
        fleet.take(missing(model, 1, "dew"))
        fleet.take(missing(model, 1, "temp"))
    (incident,) = fleet.fleet_incidents().values()
    assert incident.subject == "feature:dew"
    fleet.take(pane("a", 2))
    (incident,) = fleet.fleet_incidents().values()
    assert incident.evidence["also_moved"] == {"feature:temp": 4}


def test_drift_that_no_model_cares_about_stays_an_observation_however_many_see_it() -> None:
    fleet = Fleet(50)
    for number in range(50):
        assert fleet.take(drift(f"m{number}", 1, importance=0.05)) == []


def test_what_chance_explains_is_no_fleet_incident() -> None:
    # 3,000 models with a budget of one in 300 days: ten incidents a day are nobody's fault.
    fleet = Fleet(3000)
    for number in range(12):
        fleet.take(crossing(f"m{number}", 1 + number / 24))
    assert not fleet.fleet_incidents()
    assert needed_models(10.0) > 12


def test_growth_is_told_at_marks_not_thousands_of_times() -> None:
    fleet = Fleet(400)
    for number in range(400):
        fleet.take(missing(f"m{number:03}", 1))
    told = [a for a in fleet.alerts if a.model == FLEET]
    needed = told[0].evidence["needed_models"]
    assert needed > LEAST_MODELS  # chance brings more than none among 400 models
    assert [a.evidence["blast_radius"]["models"] for a in told] == [needed, 10, 30, 100, 300]
    assert len(fleet.alerts) == 2 * (needed - 1) + 5
    fleet.take(pane("m000", 2))
    last = fleet.alerts[-1]
    assert last.evidence["blast_radius"]["models"] == 400
    assert len(last.evidence["blast_radius"]["names"]) + last.evidence["blast_radius"]["not_named"] == 400
    assert len(msgspec.json.encode(last)) < 100_000


def test_it_closes_when_the_last_model_is_well_and_the_same_within_a_week_reopens_it() -> None:
    fleet = Fleet(20)
    for model in "abc":
        fleet.take(missing(model, 1))
    for model in "ab":
        fleet.take(missing(model, 3, status="closed"))
        fleet.take(pane(model, 5))
    fleet.take(missing("c", 6, status="closed"))
    (incident,) = fleet.fleet_incidents().values()
    assert (incident.status, incident.evidence["blast_radius"]["active"]) == ("updated", 1)
    assert "1 of them is still affected" in incident.explanation
    fleet.take(pane("c", 8))
    (incident,) = fleet.fleet_incidents().values()
    assert (incident.status, incident.closed_at) == ("closed", utc(START + 8 * DAY))
    assert [a for a in fleet.alerts if a.model == "c"] == []
    for model in "abd":
        fleet.take(missing(model, 9))
    (again,) = fleet.fleet_incidents().values()
    assert (again.incident_id, again.status) == (incident.incident_id, "updated")
    assert "It is back" in again.explanation
    for model in "abd":
        fleet.take(missing(model, 10, status="closed"))
        fleet.take(pane(model, 12))
    for model in "efg":
        fleet.take(missing(model, 30))
    assert len(fleet.fleet_incidents()) == 2


def test_a_request_for_a_successor_names_the_fleet_incident() -> None:
    fleet = Fleet(20)
    for model in "abc":
        fleet.take(drift(model, 1))
        fleet.take(crossing(model, 1))
    (incident,) = fleet.fleet_incidents()
    (request,) = fleet.book("c").pane_closed(pane("c", 2), spec()).requests
    assert request.incident_id == incident


@pytest.mark.parametrize(
    ("models", "reached"),
    [(1, 1), (3, 3), (9, 3), (10, 10), (29, 10), (30, 30), (99, 30), (100, 100), (2999, 1000), (3000, 3000)],
)
def test_milestones(models: int, reached: int) -> None:
    assert milestone(models) == reached


def test_needed_models_grows_with_what_chance_brings() -> None:
    needed = [needed_models(expected) for expected in (0.0, 0.1, 1.0, 10.0, 100.0)]
    assert needed[0] == LEAST_MODELS
    assert needed == sorted(needed)
    assert all(count > expected for count, expected in zip(needed[1:], (0.1, 1.0, 10.0, 100.0), strict=True))


def replayed(events: Iterable[Observation | PaneClosed]) -> Fleet:
    fleet = Fleet(40)
    for event in events:
        fleet.take(event)
    return fleet


MODELS = st.lists(
    st.tuples(st.sampled_from([1.0, 1.25, 1.5, 2.0, 4.0]), st.integers(2, 6), st.sampled_from(["info", "warning"])),
    min_size=2,
    max_size=9,
)


@settings(max_examples=25, deadline=None)
@given(MODELS, st.randoms(use_true_random=False))
def test_which_models_belong_together_does_not_depend_on_the_order_of_arrival(models: Any, random: Any) -> None:
    """Each model's events stay in order; between models they come less than a day apart of event time, in any order."""
    streams: list[list[Observation | PaneClosed]] = []
    for number, (day, length, severity) in enumerate(models):
        name = f"m{number}"
        stream: list[Observation | PaneClosed] = [missing(name, day, severity=severity)]
        stream += [missing(name, day + 0.25, status="updated", severity="critical")]
        stream += [missing(name, day + length, status="closed")]
        stream += [pane(name, float(at)) for at in range(int(day + length) + 1, 16)]
        streams.append(stream)
    in_time = sorted((event for stream in streams for event in stream), key=lambda e: (e.observed_at, e.model))
    shuffled = _interleaved(streams, random)
    first, second = replayed(in_time), replayed(shuffled)
    assert _outcome(first) == _outcome(second)
    for fleet in (first, second):
        assert len(set(fleet.ids)) == len(fleet.ids)
        assert all(a.status == "closed" for a in fleet.newest().values())


def _interleaved(streams: list[list[Observation | PaneClosed]], random: Any) -> list[Observation | PaneClosed]:
    left = [list(stream) for stream in streams]
    out: list[Observation | PaneClosed] = []
    while any(left):
        heads = [stream for stream in left if stream]
        oldest = min(stream[0].observed_at for stream in heads)
        near = [stream for stream in heads if (stream[0].observed_at - oldest).total_seconds() < 43_200]
        out.append(random.choice(near).pop(0))
    return out


def _outcome(fleet: Fleet) -> dict[str, Any]:
    return {
        incident.fleet_id: (
            incident.theme,
            incident.opened_ms,
            incident.severity,
            [s.model for s in fleet.fleet.members(incident.fleet_id)],
        )
        for incident in fleet.fleet.incidents.values()
    }


@settings(max_examples=12, deadline=None)
@given(MODELS)
def test_a_restored_fleet_book_decides_the_same(models: Any) -> None:
    events: list[Observation | PaneClosed] = []
    for number, (day, length, severity) in enumerate(models):
        events += [missing(f"m{number}", day, severity=severity), missing(f"m{number}", day + length, status="closed")]
        events += [pane(f"m{number}", float(at)) for at in range(int(day + length) + 1, 16)]
    plain, restored = Fleet(40), Fleet(40)
    for event in sorted(events, key=lambda e: (e.observed_at, e.model)):
        restored.fleet = _again(restored.fleet)
        assert plain.take(event) == restored.take(event)


def _again(book: FleetBook) -> FleetBook:
    made = FleetBook(book.models)
    made.restore(
        [msgspec.json.decode(msgspec.json.encode(s), type=Standing) for s in book.standings.values()],
        [msgspec.json.decode(msgspec.json.encode(i), type=FleetIncident) for i in book.incidents.values()],
        book.ordinals,
        book.clock_ms,
    )
    return made
