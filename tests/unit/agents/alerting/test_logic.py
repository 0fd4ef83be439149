"""Incidents: opening, grouping, hysteresis, reopening, causes; and when a successor is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.alerting.incident import Effects
from agents.alerting.logic import AlertBook
from agents.alerting.triggers import Learnt
from schemas.codec import segment_of, utc
from schemas.events import ModelRefused, Observation, PaneClosed
from schemas.specification import Specification, parse

DAY = 86_400_000
START = 1_370_044_800_000  # 2013-06-01


def spec(triggers: str = '["quality", "drift"]', cool_down: str = "7d") -> Specification:
    return parse(f"""
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "3d"
[features]
a = "numeric"
[metrics]
primary = "roc_auc"
windows = ["1d", "7d"]
[retraining]
triggers = {triggers}
cool_down = "{cool_down}"
""")


def observation(day: int, subject: str = "roc_auc", **over: Any) -> Observation:
    status = over.pop("status", "opened")
    segment = over.pop("segment", "")
    values: dict[str, Any] = {
        "observation_id": f"{subject}-{segment}-{day}-{status}",
        "model": "m",
        "version": 1,
        "kind": "quality",
        "subject": subject,
        "segment": segment_of(segment),
        "status": status,
        "severity": "warning",
        "window": "7d",
        "window_start": utc(START + (day - 7) * DAY),
        "window_end": utc(START + day * DAY),
        "value": 0.641,
        "reference": 0.702,
        "threshold": 0.68,
        "n": 5120,
        "observed_at": utc(START + day * DAY),
    }
    return Observation(**{**values, **over})


def drift(day: int, name: str, importance: float, **over: Any) -> Observation:
    values: dict[str, Any] = {
        "kind": "data-drift",
        "value": 7.3,
        "reference": 0.05,
        "threshold": 0.25,
        "evidence": {"importance": importance, "statistic": "psi"},
    }
    return observation(day, f"feature:{name}", **{**values, **over})


def pane(day: int) -> PaneClosed:
    at = START + day * DAY
    return PaneClosed(
        model="m", pane_start=utc(at - 4 * DAY), pane_end=utc(at - 3 * DAY), observed_at=utc(at), labelled=800
    )


def statuses(effects: Effects) -> list[str]:
    return [alert.status for _, alert in effects.alerts]


def test_quality_crossing_opens_an_incident_in_words_with_numbers() -> None:
    book = AlertBook(model="m")
    ((_, alert),) = book.observed(observation(1), spec()).alerts
    assert (alert.status, alert.kind, alert.subject, alert.segment) == ("opened", "quality", "roc_auc", None)
    assert alert.opened_at == utc(START + DAY)
    for part in ("roc_auc", "0.641", "0.702", "0.680", "5,120", "fell to", "2013-06-02"):
        assert part in alert.explanation
    assert alert.evidence["value"] == 0.641
    assert alert.evidence["observations"][0]["window"] == "7d"


def test_more_metrics_windows_and_segments_join_and_are_told_once() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec())
    later = Effects()
    for extra in (
        observation(1, "brier", value=0.25, reference=0.2, threshold=0.22),
        observation(1, "roc_auc", window="1d"),
        observation(1, "roc_auc", segment="origin=EWR"),
    ):
        later.extend(book.observed(extra, spec()))
    assert later.alerts == []
    ((_, update),) = book.pane_closed(pane(1), spec()).alerts
    assert update.status == "updated"
    assert len(update.evidence["observations"]) == 4
    assert book.pane_closed(pane(2), spec()).alerts == []


def test_a_segment_alone_is_its_own_incident_until_the_whole_is_affected() -> None:
    book = AlertBook(model="m")
    ((_, alert),) = book.observed(observation(1, segment="origin=EWR"), spec()).alerts
    assert alert.segment == {"origin": "EWR"}
    (_, overall), (_, ended) = book.observed(observation(2), spec()).alerts
    assert (overall.segment, overall.status, ended.status) == (None, "opened", "closed")
    assert ended.incident_id == alert.incident_id
    assert overall.incident_id in ended.explanation
    ((_, update),) = book.pane_closed(pane(2), spec('["data"]')).alerts
    assert update.evidence["blast_radius"]["affected"][0]["segments"] == ["origin=EWR"]


@pytest.mark.parametrize("kind", ["data-quality", "coverage", "label-delay", "skew", "new-segment"])
def test_small_findings_stay_observations_but_quality_has_passed_the_budget(kind: str) -> None:
    book = AlertBook(model="m")
    assert book.observed(observation(1, "x", kind=kind, severity="info"), spec()).alerts == []
    assert statuses(book.observed(observation(2, "x", kind=kind, status="updated"), spec())) == ["opened"]
    assert statuses(book.observed(observation(2, severity="info"), spec())) == ["opened"]


def test_more_severe_is_told_at_once() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec())
    ((_, alert),) = book.observed(observation(3, severity="critical", status="updated"), spec()).alerts
    assert (alert.status, alert.severity) == ("updated", "critical")


def test_small_drift_is_no_cause() -> None:
    book = AlertBook(model="m")
    book.observed(drift(1, "temp", 0.1, severity="info"), spec())
    ((_, alert),) = book.observed(observation(1), spec()).alerts
    assert "temp" not in alert.explanation
    assert alert.evidence["causes"] == []


@pytest.mark.parametrize(
    ("importance", "severity", "incident"),
    [
        (0.0, "warning", False),
        (0.0, "critical", True),
        (0.05, "warning", True),
        (0.05, "info", False),
        (None, "warning", True),
    ],
)
def test_values_lost_of_a_feature_nobody_looks_at(importance: float | None, severity: str, incident: bool) -> None:
    book = AlertBook(model="m")
    evidence = {} if importance is None else {"importance": importance}
    made = observation(1, "feature:wind", kind="data-quality", severity=severity, evidence=evidence)
    assert bool(book.observed(made, spec()).alerts) is incident


def test_drift_of_a_feature_nobody_looks_at_is_no_cause() -> None:
    book = AlertBook(model="m")
    book.observed(drift(1, "gusts", 0.001), spec())
    ((_, alert),) = book.observed(observation(1), spec()).alerts
    assert "gusts" not in alert.explanation


def test_a_request_names_the_overall_incident_before_that_of_a_segment() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1, segment="origin=EWR"), spec())
    (_, overall), _ = book.observed(observation(2), spec()).alerts
    (request,) = book.pane_closed(pane(2), spec()).requests
    assert request.incident_id == overall.incident_id


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        (
            {"kind": "data-quality", "subject": "feature:temp", "value": 0.31, "reference": 0.01, "threshold": 0.05,
             "evidence": {"statistic": "unusable_rate"}},
            ["share of unusable values of temp rose to 0.310", "the reference is 0.010", "above 0.050"],
        ),
        (
            {"kind": "coverage", "subject": "coverage", "value": 0.2, "reference": 0.97, "threshold": 0.485},
            ["coverage fell to 0.200", "below 0.485"],
        ),
        (
            {"kind": "new-segment", "subject": "origin=XYZ", "segment": "origin=XYZ", "value": 120.0, "n": 120},
            ["Training never saw origin=XYZ: 120 predictions"],
        ),
        (
            {"subject": "brier", "value": 0.25, "reference": 0.2, "threshold": 0.22},
            ["brier rose to 0.250", "the alarm stands above 0.220"],
        ),
    ],
)  # fmt: skip
def test_explanations_read_as_sentences(made: dict[str, Any], parts: list[str]) -> None:
    subject = made.pop("subject")
    ((_, alert),) = AlertBook(model="m").observed(observation(1, subject, **made), spec()).alerts
    for part in parts:
        assert part in alert.explanation
    assert alert.explanation.endswith(".")
    assert alert.title.startswith("m v1: ")


def test_an_incident_closes_after_the_hold_and_oscillation_inside_it_is_silent() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec())
    for day in range(2, 20):  # bad on even days, good on odd ones
        status = "opened" if day % 2 == 0 else "closed"
        assert book.observed(observation(day, status=status), spec()).alerts == []
        assert book.pane_closed(pane(day), spec('["data"]')).alerts == []
    assert book.pane_closed(pane(20), spec('["data"]')).alerts == []
    ((_, alert),) = book.pane_closed(pane(21), spec('["data"]')).alerts
    assert (alert.status, alert.closed_at) == ("closed", utc(START + 21 * DAY))


def test_back_within_the_cool_down_reopens_the_same_incident_and_after_it_a_new_one() -> None:
    book = AlertBook(model="m")
    ((_, first),) = book.observed(observation(1), spec()).alerts
    book.observed(observation(2, status="closed"), spec())
    assert statuses(book.pane_closed(pane(4), spec('["data"]'))) == ["closed"]
    ((_, back),) = book.observed(observation(6), spec()).alerts
    assert (back.incident_id, back.status, back.closed_at) == (first.incident_id, "updated", None)
    assert "back" in back.explanation
    book.observed(observation(7, status="closed"), spec())
    assert statuses(book.pane_closed(pane(9), spec('["data"]'))) == ["closed"]
    ((_, new),) = book.observed(observation(16), spec()).alerts
    assert new.status == "opened"
    assert new.incident_id != first.incident_id


def test_drift_is_the_cause_of_lost_quality_whatever_comes_first() -> None:
    before, after = AlertBook(model="m"), AlertBook(model="m")
    assert before.observed(drift(1, "temp", 0.1), spec()).alerts == []
    ((_, alert),) = before.observed(observation(1), spec()).alerts
    after.observed(observation(1), spec())
    assert after.observed(drift(1, "temp", 0.1), spec()).alerts == []
    ((_, update),) = after.pane_closed(pane(1), spec('["data"]')).alerts
    for told in (alert, update):
        assert "temp (psi 7.3" in told.explanation
        assert "10% of the model's importance" in told.explanation
        assert told.evidence["causes"][0]["subject"] == "feature:temp"


@pytest.mark.parametrize(
    ("drifts", "incident"),
    [
        ([("temp", 0.1)], False),
        ([("temp", 0.1), ("dew", 0.15), ("wind", 0.05)], False),
        ([("carrier", 0.3), ("hour", 0.35)], True),
    ],
)
def test_drift_alone_is_an_incident_only_when_it_matters(drifts: list[tuple[str, float]], incident: bool) -> None:
    book = AlertBook(model="m")
    effects = Effects()
    for name, importance in drifts:
        effects.extend(book.observed(drift(1, name, importance), spec()))
    assert statuses(effects) == (["opened"] if incident else [])
    requests = book.pane_closed(pane(1), spec()).requests
    assert [r.trigger for r in requests] == (["drift"] if incident else [])


def test_a_feature_is_counted_once_over_windows_and_not_by_segment() -> None:
    book = AlertBook(model="m")
    for extra in (
        drift(1, "temp", 0.3),
        drift(1, "temp", 0.3, window="1d"),
        drift(1, "temp", 0.3, segment="origin=EWR"),
        drift(1, "hour", 0.4, segment="origin=EWR"),
    ):
        assert book.observed(extra, spec()).alerts == []


def test_predictions_that_moved_make_a_smaller_share_matter() -> None:
    book = AlertBook(model="m")
    moved = observation(1, "prediction", kind="prediction-drift", value=0.4, reference=0.0, threshold=0.25)
    assert book.observed(moved, spec()).alerts == []
    ((_, alert),) = book.observed(drift(1, "hour", 0.25), spec()).alerts
    assert (alert.kind, alert.subject) == ("data-drift", "feature:hour")


def test_drift_goes_over_into_quality_and_its_bound_has_hysteresis() -> None:
    book = AlertBook(model="m")
    book.observed(drift(1, "carrier", 0.3), spec())
    book.observed(drift(1, "hour", 0.3), spec())
    assert [i.group for i in book.incidents.values()] == ["drift"]
    book.observed(drift(2, "carrier", 0.3, status="closed"), spec())
    assert book.pane_closed(pane(5), spec('["data"]')).alerts == []  # 0.3 is above half of the bound
    effects = book.observed(observation(6), spec())
    assert [(a.kind, a.status) for _, a in effects.alerts] == [("quality", "opened"), ("data-drift", "closed")]


def test_promotion_closes_the_incidents_of_the_old_version_and_ignores_its_late_labels() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec())
    ((_, closed),) = book.champion_changed(2).alerts
    assert closed.status == "closed"
    assert "Version 2 took over" in closed.explanation
    assert book.observed(observation(2), spec()).alerts == []
    assert book.pane_closed(pane(3), spec()).requests == []
    assert statuses(book.observed(observation(4, version=2), spec())) == ["opened"]


def test_a_challenger_alerts_only_once_it_is_champion() -> None:
    book = AlertBook(model="m", champion=1)
    assert book.observed(observation(1, version=2), spec()).alerts == []
    assert book.champion_changed(2).alerts == []
    assert statuses(book.pane_closed(pane(2), spec('["data"]'))) == ["opened"]


def test_refused_artifact_raises_one_critical_incident_until_serving_recovers() -> None:
    book = AlertBook(model="m", clock_ms=START, champion=1)
    event = ModelRefused(
        event_id="e", model="m", at=utc(START), version=2, reason="artifact is gone.\nmore\n", worker="0"
    )
    ((_, alert),) = book.refused(event).alerts
    assert (alert.kind, alert.severity, alert.subject) == ("data-quality", "critical", "serving")
    assert alert.explanation == "Serving refused version 2: artifact is gone. The last good version goes on."
    assert book.refused(msgspec.structs.replace(event, event_id="f")).alerts == []
    assert book.pane_closed(pane(9), spec()).alerts == []
    assert book.recovered(1).alerts == []
    assert statuses(book.recovered(2)) == ["closed"]


def test_one_request_a_model_and_the_next_after_answer_and_cool_down() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec())
    (request,) = book.pane_closed(pane(1), spec()).requests
    assert (request.trigger, request.as_of) == ("quality", utc(START + DAY))
    assert request.incident_id in book.incidents
    assert [book.pane_closed(pane(day), spec()).requests for day in range(2, 12)] == [[]] * 10  # still open
    book.run_ended()
    (again,) = book.pane_closed(pane(12), spec()).requests
    assert again.request_id != request.request_id
    book.run_ended()
    assert [book.pane_closed(pane(day), spec()).requests for day in range(13, 19)] == [[]] * 6  # cool-down
    assert len(book.pane_closed(pane(19), spec()).requests) == 1


def test_triggers_not_in_the_specification_ask_for_nothing() -> None:
    book = AlertBook(model="m")
    book.observed(observation(1), spec('["drift"]'))
    assert book.pane_closed(pane(1), spec('["drift"]')).requests == []


def test_schedule_counts_event_time_from_the_first_pane_and_from_the_last_request() -> None:
    rules = spec('["schedule:30d"]')
    book = AlertBook(model="m")
    asked = []
    for day in range(100):
        for request in book.pane_closed(pane(day), rules).requests:
            asked.append((day, request.trigger))
            book.run_ended()
    assert asked == [(30, "schedule"), (60, "schedule"), (90, "schedule")]


def asked_on(
    book: AlertBook, rules: Specification, days: Iterable[int], rows: int | None = None, until_day: int | None = None
) -> list[int]:
    """Days on which a successor is asked for; every run ends at once. `rows`, `until_day`: what the champion knows."""
    found = []
    learnt = None if until_day is None else Learnt(rows=rows, until_ms=START + until_day * DAY)
    for day in days:
        for request in book.pane_closed(pane(day), rules, learnt).requests:
            assert request.trigger == "data"
            found.append(day)
            book.run_ended()
    return found


def test_new_rows_ask_when_they_are_half_of_what_the_champion_learnt_from() -> None:
    """A pane has 800 labels and began four days before it closed."""
    rules = spec('["data"]', cool_down="1d")
    book = AlertBook(model="m")
    assert asked_on(book, rules, range(1, 8), 6000, 0) == [7]  # panes of the days 0 to 3
    # Counted from day 7 on, whatever became of the run.
    assert asked_on(book, rules, range(8, 15), 6000, 0) == [14]
    restored = AlertBook.from_snapshot(book.snapshot())
    for one in (book, restored):
        assert asked_on(one, rules, range(15, 32), 20_000, 14) == [30]


@pytest.mark.parametrize(
    ("rows", "until_day", "asked"),
    [
        (None, None, 6),  # nobody knows: min_labels, 1,000
        (None, 0, 5),
        (100, 0, 5),
        (8000, 0, 8),
        (100, 2, 7),
        (100, -99, 6),
    ],
)
def test_how_many_new_rows_it_takes(rows: int | None, until_day: int | None, asked: int) -> None:
    book = AlertBook(model="m", clock_ms=START)
    first = 5 if until_day is None or until_day < 0 else 1
    assert asked_on(book, spec('["data"]'), range(first, 9), rows, until_day) == [asked]


def test_a_roll_back_does_not_count_rows_again_that_a_run_has_seen() -> None:
    rules = spec('["data"]', cool_down="1d")
    book = AlertBook(model="m")
    assert asked_on(book, rules, range(1, 8), 6000, 0) == [7]
    assert asked_on(book, rules, range(8, 10), 9000, 7) == []
    assert asked_on(book, rules, range(10, 15), 6000, 0) == [14]


def test_new_rows_wait_for_the_cool_down_and_come_after_incidents() -> None:
    rules = spec('["data", "new-segment"]', cool_down="30d")
    book = AlertBook(model="m")
    assert asked_on(book, spec('["schedule:90d"]'), range(1, 7), 100, 0) == []
    appeared = observation(7, "origin=XYZ", kind="new-segment", segment="origin=XYZ", value=120.0)
    book.observed(appeared, rules)
    (request,) = book.pane_closed(pane(7), rules).requests
    assert request.trigger == "new-segment"
    book.run_ended()
    book.observed(observation(7, "origin=XYZ", kind="new-segment", segment="origin=XYZ", status="closed"), rules)
    assert asked_on(book, rules, range(8, 60)) == [37]


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["roc_auc", "brier", "drift:a", "drift:b", "skew:a", "fault:b", "pane"]),
        st.sampled_from(["opened", "updated", "closed"]),
        st.sampled_from(["", "origin=EWR"]),
        st.sampled_from(["info", "warning", "critical"]),
    ),
    max_size=40,
)


def _apply(target: AlertBook, day: int, event: tuple[int, str, str, str, str]) -> Effects:
    _, what, status, segment, severity = event
    if what == "pane":
        return target.pane_closed(pane(day), spec())
    over: dict[str, Any] = {"status": status, "segment": segment, "severity": severity}
    kind, _, name = what.partition(":")
    if kind == "drift":
        return target.observed(drift(day, name, 0.4, **over), spec())
    made = {"skew": skew, "fault": fault}[kind](day, name, **over) if name else observation(day, what, **over)
    return target.observed(made, spec())


@given(EVENTS)
def test_alerts_of_an_incident_alternate_and_a_restored_book_decides_the_same(
    events: list[tuple[int, str, str, str, str]],
) -> None:
    book, restored = AlertBook(model="m"), AlertBook(model="m")
    day = 0
    status: dict[str, str] = {}
    ids: set[str] = set()
    for event in events:
        day += event[0]
        effects = _apply(book, day, event)
        restored = AlertBook.from_snapshot(restored.snapshot())
        assert _apply(restored, day, event) == effects
        for event_id, alert in effects.alerts:
            assert event_id not in ids
            ids.add(event_id)
            assert (alert.status == "opened") == (alert.incident_id not in status)
            assert (alert.closed_at is not None) == (alert.status == "closed")
            if alert.status == "closed":
                assert status[alert.incident_id] != "closed"
            status[alert.incident_id] = alert.status
            assert alert.explanation
        _assert_apart(book)
    assert restored == book


def _assert_apart(book: AlertBook) -> None:
    """No two open incidents are about the same; what is over and waits to be closed does not count."""
    alive = [i for i in book.incidents.values() if i.closed_ms is None and i.quiet_since_ms is None]
    assert "quality" not in {i.group for i in alive} or not any(i.features() for i in alive)
    for group in ("quality", "inputs"):
        places = [i.segment for i in alive if i.group == group]
        assert len(places) == len(set(places))
        assert "" not in places or len(places) == 1
    moved = {name for i in alive if i.group == "drift" for name in i.features()}
    assert not moved & {name for i in alive if i.group == "inputs" for name in i.features()}


def fault(day: int, name: str = "temp", **over: Any) -> Observation:
    values: dict[str, Any] = {
        "kind": "data-quality",
        "value": 0.8,
        "reference": 0.01,
        "threshold": 0.05,
        "evidence": {"importance": 0.3, "statistic": "unusable_rate", "missing": 4096, "invalid": 0},
    }
    return observation(day, f"feature:{name}", **{**values, **over})


def test_a_broken_feature_is_the_cause_of_lost_quality_and_no_incident_beside_it() -> None:
    book = AlertBook(model="m")
    ((_, first),) = book.observed(fault(1), spec()).alerts
    assert (first.kind, first.status) == ("data-quality", "opened")
    assert "4,096 missing" in first.explanation
    told = {(a.kind, a.status): a for _, a in book.observed(observation(3), spec()).alerts}
    assert set(told) == {("quality", "opened"), ("data-quality", "closed")}
    opened = told["quality", "opened"]
    assert "the share of unusable values of temp (0.800" in opened.explanation
    assert opened.evidence["causes"][0]["kind"] == "data-quality"
    assert opened.incident_id in told["data-quality", "closed"].explanation
    assert book.observed(fault(4, severity="critical", status="updated"), spec()).alerts == []


def test_labels_confirm_what_was_estimated_in_the_same_incident() -> None:
    book = AlertBook(model="m")
    evidence = {"low": 0.60, "high": 0.66, "trust": 0.9}
    estimated = observation(1, kind="estimated-quality", window="1d", evidence=evidence)
    ((_, first),) = book.observed(estimated, spec()).alerts
    assert (first.kind, first.status) == ("estimated-quality", "opened")
    assert "between 0.600 and 0.660, trust 0.900" in first.explanation
    ((_, confirmed),) = book.observed(observation(4), spec()).alerts
    assert (confirmed.incident_id, confirmed.status) == (first.incident_id, "updated")
    assert confirmed.explanation.startswith("Labels confirm what had been estimated.")
    assert book.observed(observation(4, "brier"), spec()).alerts == []


def test_labels_that_come_late_and_coverage_are_one_incident() -> None:
    book = AlertBook(model="m")
    late = observation(1, "label-delay", kind="label-delay", value=9e4, reference=3600.0, threshold=1e4)
    ((_, alert),) = book.observed(late, spec()).alerts
    assert "The label delay rose to 1.04 d" in alert.explanation
    assert "the usual is 1 h" in alert.explanation
    thin = observation(1, "coverage", kind="coverage", value=0.2, reference=0.9, threshold=0.45)
    assert book.observed(thin, spec()).alerts == []
    ((_, update),) = book.pane_closed(pane(2), spec()).alerts
    assert {o["kind"] for o in update.evidence["observations"]} == {"coverage", "label-delay"}


def test_what_the_calendar_explains_is_neither_a_cause_nor_an_incident() -> None:
    book = AlertBook(model="m")
    seasonal = {"importance": 0.7, "statistic": "psi", "seasonal": True, "season": "July", "season_psi": 0.03}
    for made in (
        drift(1, "temp", 0.7, severity="critical", evidence=seasonal),
        observation(1, "prediction", kind="prediction-drift", value=1.0, severity="critical", evidence=seasonal),
        observation(1, "label", kind="label-drift", value=1.0, severity="critical", evidence=seasonal),
    ):
        assert book.observed(made, spec()).alerts == []
    ((_, alert),) = book.observed(observation(2), spec()).alerts
    assert alert.evidence["causes"] == []
    assert "As every year at this time: temp (psi 7.3 against the whole reference, 0.030 against July)" in (
        alert.explanation
    )
    # A real shift inside the season.
    shifted = drift(3, "temp", 0.7, status="updated", evidence={**seasonal, "seasonal": False})
    book.observed(shifted, spec())
    ((_, update),) = book.pane_closed(pane(3), spec()).alerts
    assert [c["subject"] for c in update.evidence["causes"]] == ["feature:temp"]


def test_causes_are_ranked_by_importance_and_by_how_far_they_moved() -> None:
    book = AlertBook(model="m")
    for made in (
        drift(1, "far_but_unimportant", 0.02, value=9.0),
        drift(1, "half_the_model", 0.5, value=0.3),
        drift(1, "half_the_model", 0.5, value=2.0, segment="origin=EWR"),
        drift(1, "near_and_small", 0.05, value=0.3),
        observation(1, "prediction", kind="prediction-drift", value=5.0, reference=0.0, threshold=0.2),
    ):
        book.observed(made, spec())
    (alert, _drift_closed) = (a for _, a in book.observed(observation(2, segment="origin=EWR"), spec()).alerts)
    ranked = [cause["subject"] for cause in alert.evidence["causes"]]
    assert ranked == ["feature:half_the_model", "feature:far_but_unimportant", "feature:near_and_small", "prediction"]
    assert alert.evidence["causes"][0]["segments"] == ["origin=EWR"]
    assert alert.evidence["blast_radius"]["affected"] == [
        {"model": "m", "version": 1, "segments": ["origin=EWR"], "events": 5120}
    ]


def test_where_no_importance_is_known_every_feature_counts_the_same() -> None:
    book = AlertBook(model="m")
    made = msgspec.structs.replace(drift(1, "a", 0.0), evidence={"statistic": "psi"})
    ((_, alert),) = book.observed(made, spec()).alerts  # the only feature there is
    assert alert.kind == "data-drift"
    assert "importance" not in alert.explanation


def test_a_version_that_is_brought_back_brings_what_is_open_for_it() -> None:
    """In shadow nothing of it alerts; back in production, what crossed meanwhile does."""
    book = AlertBook(model="m", champion=1)
    book.champion_changed(2)
    assert book.observed(observation(1), spec()).alerts == []
    assert book.observed(observation(1, "brier", version=2), spec()).alerts != []
    book = AlertBook.from_snapshot(book.snapshot())
    assert statuses(book.champion_changed(1)) == ["closed"]
    ((_, alert),) = book.pane_closed(pane(2), spec('["data"]')).alerts
    assert (alert.version, alert.subject, alert.status) == (1, "roc_auc", "opened")
    # What is older than the champion before stays forgotten.
    book.champion_changed(5)
    book.champion_changed(6)
    book.observed(observation(3), spec())
    assert {c.version for c in book.crossings.values()} == set()


@pytest.mark.parametrize(
    ("starts", "changed_day"),
    [([("", -6)], -6), ([("", -6), ("adwin", 0)], -6), ([("", -6), ("cusum", -2)], -2), ([("cusum", -9)], -9)],
)
def test_a_request_says_since_when(starts: list[tuple[str, int]], changed_day: int) -> None:
    """A cumulative sum knows when its excursion began; windows only that it was not before them."""
    book = AlertBook(model="m")
    for number, (statistic, day) in enumerate(starts):
        more = {"evidence": {"statistic": statistic}, "window_start": utc(START + day * DAY), "window": str(number)}
        book.observed(observation(1, **more), spec())
        later = {**more, "window_start": utc(START + 30 * DAY), "status": "updated"}
        book.observed(observation(1, **later), spec())  # the first window counts
    (request,) = book.pane_closed(pane(1), spec()).requests
    assert request.changed_at == utc(START + changed_day * DAY)


def test_one_odd_day_of_inputs_alone_is_no_incident() -> None:
    book = AlertBook(model="m")
    for name in ("carrier", "hour"):
        assert book.observed(drift(1, name, 0.35, window="1d"), spec()).alerts == []
    book.observed(drift(3, "carrier", 0.35), spec())
    assert statuses(book.observed(drift(3, "hour", 0.35), spec())) == ["opened"]
    moved = AlertBook(model="m")
    moved.observed(drift(1, "carrier", 0.35, window="1d"), spec())
    predictions = observation(
        1, "prediction", kind="prediction-drift", window="1d", value=0.4, reference=0.0, threshold=0.25
    )
    assert statuses(moved.observed(predictions, spec())) == ["opened"]  # the model answers otherwise: that is one


def skew(day: int, name: str = "temp", **over: Any) -> Observation:
    return fault(day, name, **{"kind": "skew", "value": 0.3, **over})


def open_of(book: AlertBook) -> list[str]:
    """Kinds of the open incidents, oldest first."""
    return [i.kind for i in sorted(book.incidents.values(), key=lambda i: i.opened_ms) if i.closed_ms is None]


def played(book: AlertBook, *events: Observation | PaneClosed) -> list[tuple[str, str]]:
    """Kind and status of what is told."""
    told = Effects()
    for event in events:
        quiet = spec('["data"]')
        told.extend(book.pane_closed(event, quiet) if isinstance(event, PaneClosed) else book.observed(event, quiet))
    return [(alert.kind, alert.status) for _, alert in told.alerts]


def matters(day: int, **over: Any) -> list[Observation]:
    """Drift of two features that carry enough of the model."""
    return [drift(day, "temp", 0.3, **over), drift(day, "hour", 0.3, **over)]


@pytest.mark.parametrize(
    ("events", "told", "left"),
    [
        ([skew(1), fault(4), pane(4)], [("skew", "opened"), ("skew", "updated")], ["skew"]),
        ([skew(1), skew(1, "dew"), pane(1)], [("skew", "opened"), ("skew", "updated")], ["skew"]),
        ([skew(1), *matters(1), pane(1)], [("skew", "opened"), ("skew", "updated")], ["skew"]),
        ([*matters(1), skew(2), pane(2)], [("data-drift", "opened"), ("data-drift", "updated")], ["data-drift"]),
        ([skew(1, "other"), *matters(1)], [("skew", "opened"), ("data-drift", "opened")], ["skew", "data-drift"]),
        (
            [*matters(1), skew(2, "other"), drift(3, "other", 0.2), pane(3)],
            [("data-drift", "opened"), ("skew", "opened"), ("skew", "closed"), ("data-drift", "updated")],
            ["data-drift"],
        ),
        (
            [skew(1, segment="origin=EWR"), *matters(2), pane(2)],
            [("skew", "opened"), ("data-drift", "opened"), ("skew", "closed"), ("data-drift", "updated")],
            ["data-drift"],
        ),
        (
            [skew(1), *matters(1), observation(2)],
            [("skew", "opened"), ("quality", "opened"), ("skew", "closed")],
            ["quality"],
        ),
        (
            [*matters(1), skew(1), observation(2)],
            [("data-drift", "opened"), ("quality", "opened"), ("data-drift", "closed")],
            ["quality"],
        ),
        # Drift that is no reason to act stays an observation, also of a feature that is broken.
        ([fault(1), drift(1, "temp", 0.1), pane(1)], [("data-quality", "opened")], ["data-quality"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_same_feature_is_one_incident(
    events: list[Observation | PaneClosed], told: list[tuple[str, str]], left: list[str]
) -> None:
    book = AlertBook(model="m")
    assert played(book, *events) == told
    assert open_of(book) == left


def test_one_incident_of_faults_and_drift_lasts_as_long_as_either() -> None:
    for first in ([skew(1), *matters(1)], [*matters(1), skew(1)]):
        book = AlertBook(model="m")
        played(book, *first, pane(1))
        assert played(book, skew(2, status="closed"), *(pane(day) for day in range(2, 8))) == []
        assert played(book, skew(8), *matters(9, status="closed"), *(pane(day) for day in range(9, 15))) == []
        (kind,) = open_of(book)
        assert played(book, skew(15, status="closed"), pane(15), pane(17)) == [(kind, "closed")]


def test_faults_and_drift_of_a_feature_are_told_together_and_ask_as_drift_does() -> None:
    book = AlertBook(model="m")
    book.observed(skew(1), spec())
    for made in matters(1):
        book.observed(made, spec())
    effects = book.pane_closed(pane(1), spec())
    ((_, alert),) = effects.alerts
    assert [c["subject"] for c in alert.evidence["causes"]] == ["feature:hour", "feature:temp", "feature:temp"]
    assert alert.evidence["importance_moved"] == 0.6
    assert "The difference of temp between training and serving" in alert.explanation
    assert "At the same time moved: hour (psi 7.3" in alert.explanation
    assert [request.trigger for request in effects.requests] == ["drift"]


def test_drift_that_is_no_reason_to_act_is_told_with_the_fault_of_its_feature() -> None:
    book = AlertBook(model="m")
    book.observed(drift(1, "temp", 0.1), spec())
    book.observed(drift(1, "dew", 0.1), spec())
    ((_, alert),) = book.observed(fault(1), spec()).alerts
    assert "temp (psi 7.3" in alert.explanation
    assert "dew" not in alert.explanation
    assert {c["kind"] for c in alert.evidence["causes"]} == {"data-quality", "data-drift"}


def test_a_book_of_an_earlier_release_goes_on_with_its_incidents() -> None:
    book = AlertBook(model="m")
    ((_, first),) = book.observed(skew(1), spec()).alerts
    older = book.snapshot().replace(b'"group":"inputs"', b'"group":"skew"')
    restored = AlertBook.from_snapshot(older)
    assert played(restored, fault(2), pane(2)) == [("skew", "updated")]
    assert list(restored.incidents) == [first.incident_id]


@pytest.mark.parametrize("champion", [None, 1])
@pytest.mark.parametrize(("subject", "closes"), [("partitioner", True), ("duplicates", True), ("volume", False)])
def test_what_nobody_says_again_is_over(subject: str, closes: bool, champion: int | None) -> None:
    """A worker that said it may be gone: what it says twice a day is over once it is not said for two days."""
    book, its = AlertBook(model="m"), spec()
    if champion is not None:
        book.champion_changed(champion)
    told = []
    for day in range(1, 12):
        if day <= 5:
            said = observation(day, subject, kind="data-quality", window="", status="opened" if day == 1 else "updated")
            told += statuses(book.observed(said, its))
        told += statuses(book.pane_closed(pane(day), its))
        if day == 8:
            book = AlertBook.from_snapshot(book.snapshot())
            assert told == ["opened"]  # quiet since day 7, closed two panes later
    assert told == (["opened", "closed"] if closes else ["opened"])
