from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import to_ms, utc
from schemas.errors import StateError
from schemas.events import (
    DeltaRecord,
    DriftMetric,
    JoinedDelta,
    Observation,
    PaneClosed,
    PaneDelta,
    PartitionWatermark,
    QualityMetric,
    WatermarkUpdate,
)
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.packed import pack_counters
from streams.panes import PanePlan, negated
from streams.pending import MOST_PARTS
from tests.support.calls import calls_of
from tests.support.plans import plan, prediction
from tests.support.replay import DAY, Event, deltas, split, watermark

HOUR = 3_600_000


def _events(day: int, n: int, *, seed: int = 0, right: float = 0.8, origin: str | None = None) -> list[Event]:
    """`n` predictions of a day, labelled after two hours, `right` of them rightly."""
    rng = random.Random(f"{seed}-{day}-{origin}")
    out = []
    for i in range(n):
        score = rng.random()
        guess = int(score > 0.5)
        label = guess if rng.random() < right else 1 - guess
        p = prediction(
            f"{day}-{i}",
            day * DAY + rng.randrange(DAY),
            value=guess,
            probability=score,
            distance=rng.random() * 400,
            origin=origin or rng.choice(["JFK", "LGA"]),
        )
        out.append(Event(p, label, 2 * HOUR))
    return out


def _feed(aggregate: AggregatePartition, records: Sequence[DeltaRecord]) -> list[AggregateEvent]:
    return [event for record in records for event in aggregate.merge(record)]


def _quality(events: Sequence[AggregateEvent], **wanted: object) -> list[QualityMetric]:
    found = [event for event in events if isinstance(event, QualityMetric)]
    return [m for m in found if all(getattr(m, name) == value for name, value in wanted.items())]


def test_windows_close_when_labels_can_no_longer_come() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    assert _feed(aggregate, [deltas(p, _events(0, 50)), watermark(1 * DAY)]) != []  # drift closes with the traffic
    assert _quality(_feed(aggregate, [watermark(4 * DAY - 1)])) == []
    closed = _quality(_feed(aggregate, [watermark(4 * DAY)]))
    assert {(m.window, m.state, m.revision) for m in closed} == {("1d", "closed", 0), ("7d", "closed", 0)}
    overall = next(m for m in closed if m.segment is None and m.window == "1d")
    assert (overall.n, overall.coverage) == (50, 1.0)
    assert (to_ms(overall.window_start), to_ms(overall.window_end)) == (0, DAY)
    assert sum(m.n for m in closed if m.window == "1d" and m.segment is not None) == 50


def test_traffic_closes_without_labels() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = [e._replace(label=None) for e in _events(0, 50)]
    closed = _feed(aggregate, [deltas(p, events), watermark(DAY)])
    assert {e.subject for e in closed if isinstance(e, DriftMetric)} == {
        "feature:distance",
        "feature:origin",
        "prediction",
    }
    later = _feed(aggregate, [watermark(4 * DAY)])
    assert {e.subject for e in later if isinstance(e, DriftMetric)} == {"label"}
    assert [m.coverage for m in _quality(later, window="1d", segment=None)] == [0.0]
    assert all(value is None for m in _quality(later) for value in m.metrics.values())


def test_slowest_active_partition_holds_the_watermark() -> None:
    p = plan()
    aggregate = AggregatePartition(2, lambda model, version: p)
    _feed(aggregate, [deltas(p, _events(0, 10)), watermark(9 * DAY, partition=0)])
    assert aggregate.watermark == -1  # nothing is known of partition 1
    _feed(aggregate, [watermark(2 * DAY, partition=1)])
    assert aggregate.watermark == 2 * DAY
    _feed(aggregate, [watermark(2 * DAY, partition=1, idle=True)])
    assert aggregate.watermark == 9 * DAY
    _feed(aggregate, [watermark(3 * DAY, partition=1)])
    assert aggregate.watermark == 9 * DAY  # never back


def test_correction_revises_every_window_that_holds_the_pane() -> None:
    p = plan(watch=("accuracy",), windows=("1d", "3d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = [event for day in range(8) for event in _events(day, 40)]
    before = _feed(aggregate, [deltas(p, events), watermark(8 * DAY)])
    wrong = events[0]  # of day 0, closed since day 4
    compact = p.compact(wrong.prediction)
    effect = 8 * DAY
    taken = negated(p.labelled(compact, wrong.label, wrong.delay_ms))  # type: ignore[arg-type]
    given_ = p.labelled(compact, 1 - int(wrong.label), 8 * DAY)  # type: ignore[arg-type]
    correction = [PaneDelta(s, 0, effect, pack_counters(c)) for s in compact.segments for c in (taken, given_)]
    record = JoinedDelta("m", 1, p.layout, 0, correction)
    assert _feed(aggregate, [record, watermark(9 * DAY - 1)]) == []  # the pane of the effect is not over
    revised = _quality(_feed(aggregate, [watermark(9 * DAY)]), state="revised")
    ends = {(m.window, to_ms(m.window_end) // DAY) for m in revised if m.segment is None}
    assert ends == {("1d", 1), ("3d", 1), ("3d", 2), ("3d", 3)}
    assert {m.revision for m in revised} == {1}
    old = _quality(before, window="1d", segment=None)[0]
    new = next(m for m in revised if m.segment is None and m.window == "1d")
    assert abs(new.metrics["accuracy"] - old.metrics["accuracy"]) == pytest.approx(1 / 40)  # type: ignore[operator]
    undo = [PaneDelta(s, 0, effect, pack_counters(negated(c))) for s in compact.segments for c in (taken, given_)]
    back = JoinedDelta("m", 1, p.layout, 0, undo)
    again = _quality(_feed(aggregate, [back, watermark(10 * DAY)]), state="revised", window="1d", segment=None)
    assert [(m.revision, m.metrics) for m in again] == [(2, old.metrics)]


def test_versions_have_series_of_their_own_and_the_old_one_still_closes() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = []
    for day in range(4):
        events += _feed(aggregate, [deltas(p, _events(day, 30), version=1), watermark((day + 1) * DAY)])
    for day in range(4, 12):
        events += _feed(aggregate, [deltas(p, _events(day, 20), version=2), watermark((day + 1) * DAY)])
    ends = {
        version: [to_ms(m.window_end) // DAY for m in _quality(events, version=version, window="1d", segment=None)]
        for version in (1, 2)
    }
    assert ends == {1: [1, 2, 3, 4], 2: [5, 6, 7, 8, 9]}
    assert {m.n for m in _quality(events, version=2, window="7d", segment=None)} == {20, 40, 60, 80, 100}
    panes = [e for e in events if isinstance(e, PaneClosed)]
    assert [(to_ms(e.pane_start) // DAY, e.labelled) for e in panes] == [
        *((day, 30) for day in range(4)),
        *((day, 20) for day in range(4, 9)),
    ]


def test_a_version_is_forgotten_when_nothing_can_change_it() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    _feed(aggregate, [deltas(p, _events(0, 30)), watermark(40 * DAY)])
    assert aggregate.models["m"].series == {}
    revived = _feed(aggregate, [deltas(p, _events(400, 30)), watermark(410 * DAY)])  # after a long silence
    assert _quality(revived, window="1d", segment=None)[0].n == 30


def test_observations_of_a_superseded_version_close() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = []
    for day in range(6):
        events += _feed(aggregate, [deltas(p, _events(day, 400, right=0.5)), watermark((day + 1) * DAY)])
    for day in range(6, 14):
        events += _feed(aggregate, [deltas(p, _events(day, 400), version=2), watermark((day + 1) * DAY)])
    seen = [
        (e.version, e.status, e.evidence.get("reason"))
        for e in events
        if isinstance(e, Observation) and e.kind == "quality"
    ]
    assert (1, "opened", None) in seen
    assert (1, "closed", "another version answers") in seen
    silenced = [e for e in events if isinstance(e, Observation) and "reason" in e.evidence]
    assert {e.observed_at for e in silenced} == {utc(9 * DAY)}  # when its last window has closed, not before
    assert not aggregate.models["m"].series[1].alarmed
    # Each opened one is closed at most once, and nothing is updated after it closed.
    by_key: dict[tuple[object, ...], list[str]] = {}
    for e in events:
        if isinstance(e, Observation):
            by_key.setdefault((e.version, e.kind, e.subject, str(e.segment), e.window), []).append(e.status)
    for statuses in by_key.values():
        assert statuses[0] == "opened"
        assert statuses.count("closed") <= statuses.count("opened") <= statuses.count("closed") + 1


def test_quality_comes_before_drift_and_panes_last() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events: list[AggregateEvent] = []
    for day in range(9):
        bad = _events(day, 400, right=0.8 if day < 3 else 0.3, origin=None if day < 6 else "SFO")
        events += _feed(aggregate, [deltas(p, bad), watermark((day + 1) * DAY)])
    by_boundary: dict[object, list[str]] = {}
    for e in events:
        if isinstance(e, Observation | PaneClosed):
            kind = "~pane" if isinstance(e, PaneClosed) else "0quality" if e.kind == "quality" else "1drift"
            by_boundary.setdefault(e.observed_at, []).append(kind)
    assert any({"0quality", "1drift"} <= set(kinds) for kinds in by_boundary.values())
    assert all(kinds == sorted(kinds) for kinds in by_boundary.values())
    kinds = {e.kind for e in events if isinstance(e, Observation)}
    assert {"quality", "data-drift", "new-segment"} <= kinds
    drift = next(e for e in events if isinstance(e, Observation) and e.kind == "data-drift")
    assert drift.subject == "feature:origin"
    assert drift.evidence["importance"] == pytest.approx(1 / 6, abs=1e-4)
    assert drift.evidence["statistic"] == "psi"
    assert drift.value > drift.threshold > drift.reference  # type: ignore[operator]


def test_thin_coverage_never_alarms_quality_but_is_seen() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events: list[AggregateEvent] = []
    for day in range(16):
        of_day = _events(day, 1000, right=0.8 if day < 8 else 0.2)
        if day >= 8:  # labels stop; the few that come are bad
            of_day = [e if i < 150 else e._replace(label=None) for i, e in enumerate(of_day)]
        events += _feed(aggregate, [deltas(p, of_day), watermark((day + 1) * DAY)])
    seen = [(e.kind, e.window) for e in events if isinstance(e, Observation)]
    assert ("coverage", "pane") in seen
    collapse = next(e for e in events if isinstance(e, Observation) and e.kind == "coverage")
    assert collapse.evidence["p_value"] < 1e-12 < collapse.evidence["p"], "no chance: a fleet's budget lets it through"
    thin = [
        e for e in events if isinstance(e, Observation) and e.kind == "quality" and e.window in {"1d", "cusum", "adwin"}
    ]
    assert thin == []


def test_unknown_version_and_foreign_layout_are_refused() -> None:
    p = plan()
    with pytest.raises(StateError, match="does not know this version"):
        AggregatePartition(1, lambda model, version: None).merge(deltas(p, _events(0, 1)))
    aggregate = AggregatePartition(1, lambda model, version: p)
    aggregate.merge(deltas(p, _events(0, 1)))
    foreign = msgspec.structs.replace(deltas(p, _events(0, 1)), layout="other")
    with pytest.raises(StateError, match="layout other"):
        aggregate.merge(foreign)


def test_effects_too_old_to_matter_are_counted_and_ignored() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    _feed(aggregate, [deltas(p, _events(0, 5)), deltas(p, _events(60, 5)), watermark(61 * DAY)])
    before = aggregate.snapshot()
    late = [PaneDelta("", 0, 0, pack_counters({0: 1}))]
    assert _feed(aggregate, [JoinedDelta("m", 1, p.layout, 0, late), watermark(62 * DAY)]) is not None
    assert aggregate.models["m"].series[1].ignored == 1
    assert aggregate.snapshot() != before


def test_a_new_segment_that_goes_again_closes() -> None:
    p = plan(windows=("1d", "3d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events: list[AggregateEvent] = []
    for day in range(14):
        of_day = _events(day, 300) + (_events(day, 60, seed=1, origin="SFO") if 2 <= day < 7 else [])
        events += _feed(aggregate, [deltas(p, of_day), watermark((day + 1) * DAY)])
    told = [e for e in events if isinstance(e, Observation) and e.kind == "new-segment"]
    assert [(o.status, o.subject, o.window, o.window_end) for o in told] == [
        ("opened", "origin=SFO", "3d", utc(4 * DAY)),
        ("closed", "origin=SFO", "3d", utc(11 * DAY)),  # the second window in a row with fewer than 50
    ]


def test_what_is_open_in_a_segment_closes_when_nothing_comes_from_it_any_more() -> None:
    p = plan(windows=("1d",), delay="1d", horizon="1d")
    aggregate = AggregatePartition(1, lambda model, version: p)
    events: list[AggregateEvent] = []
    for day in range(20):
        of_day = _events(day, 300, origin="JFK")
        if day < 9:  # three days without labels, then no predictions either
            there = _events(day, 200, seed=1, origin="LGA")
            there = [e._replace(prediction=msgspec.structs.replace(e.prediction, prediction_id=f"l{day}-{i}"))
                     for i, e in enumerate(there)]  # fmt: skip
            of_day += there if day < 6 else [e._replace(label=None) for e in there]
        events += _feed(aggregate, [deltas(p, of_day), watermark((day + 1) * DAY)])
    told = [e for e in events if isinstance(e, Observation) and e.segment == {"origin": "LGA"}]
    (opened,) = [o for o in told if o.kind == "coverage" and o.status == "opened"]
    assert opened.window_end == utc(7 * DAY)
    closed = {(o.kind, o.subject, o.window): o for o in told if o.status == "closed"}
    assert closed.keys() == {(o.kind, o.subject, o.window) for o in told}
    assert closed["coverage", "coverage", "pane"].evidence["reason"] == "nothing comes from this segment any more"
    assert closed["coverage", "coverage", "pane"].observed_at > utc(12 * DAY)


def test_new_segments_are_bounded() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    many = [e for i in range(300) for e in _events(0, 1, origin=f"X{i:03}")]
    _feed(aggregate, [deltas(p, many), watermark(DAY)])
    panes = aggregate.models["m"].series[1].panes
    assert len(panes) == 1 + 100 + 1
    assert panes["origin=(other)"][0].predicted == 200


def test_provisional_shows_what_has_not_settled() -> None:
    p = plan(watch=("accuracy",), windows=("1d", "7d", "100n"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    record = deltas(p, _events(0, 60))
    aggregate.merge(record)
    first = aggregate.provisional()
    assert {(m.window, m.n, m.state) for m in first if m.segment is None} == {
        ("1d", 60, "provisional"),
        ("7d", 60, "provisional"),
        ("100n", 60, "provisional"),
    }
    assert aggregate.provisional() == []  # nothing changed
    aggregate.touch()
    assert aggregate.provisional() == first
    closed = _quality(_feed(aggregate, [watermark(4 * DAY)]), window="1d")
    assert [m.metrics for m in closed] == [m.metrics for m in first if m.window == "1d"]


def test_a_partition_that_repeats_an_older_watermark_holds_nothing_back() -> None:
    p = plan()
    aggregate = AggregatePartition(2, lambda model, version: p)
    for partition, day in ((0, 9), (1, 5), (0, 4), (1, 8)):
        aggregate.merge(watermark(day * DAY, partition=partition))
    assert aggregate.watermark == 8 * DAY


def _opened_in(events: Sequence[AggregateEvent], window: str, version: int = 1) -> list[Observation]:
    found = [e for e in events if isinstance(e, Observation) and (e.version, e.window) == (version, window)]
    return [o for o in found if o.kind == "quality" and o.status == "opened"]


def test_the_day_a_version_begins_is_not_judged() -> None:
    p = plan(watch=("accuracy",), windows=("1d",))
    for bad, judged in ((0, False), (1, True)):
        aggregate = AggregatePartition(1, lambda model, version: p)
        told: list[AggregateEvent] = []
        for day in range(8):
            right = 0.2 if day == bad else 0.8
            told += _feed(aggregate, [deltas(p, _events(day, 400, right=right)), watermark((day + 1) * DAY)])
        assert bool(_opened_in(told, "1d")) == judged


def test_a_count_window_is_judged_when_it_is_full() -> None:
    p = plan(watch=("accuracy",), windows=("1d", "1000n"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    told: list[AggregateEvent] = []
    for day in range(20):
        told += _feed(aggregate, [deltas(p, _events(day, 150, right=0.4)), watermark((day + 1) * DAY)])
    opened = _opened_in(told, "1000n")
    assert opened
    assert {o.n >= 1000 for o in opened if o.segment is None} == {True}
    assert min(to_ms(o.window_end) for o in opened) == 8 * DAY  # 7 × 150 after the version's first day


def test_a_count_window_that_never_fills_is_told_and_not_judged() -> None:
    p = plan(watch=("accuracy",), windows=("1d", "1000n"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    told: list[AggregateEvent] = []
    for day in range(108):  # as far back as it looks, and the delay of labels
        told += _feed(aggregate, [deltas(p, _events(day, 5, right=0.2)), watermark((day + 1) * DAY)])
    newest = _quality(told, window="1000n", segment=None)[-1]
    assert (newest.n, (newest.window_end - newest.window_start).days) == (96 * 5, 96)
    assert _opened_in(told, "1000n") == []


def test_the_day_of_a_swap_is_not_judged() -> None:
    p = plan(watch=("accuracy",), windows=("1d",))
    for bad, judged in ((9, True), (10, False)):
        aggregate = AggregatePartition(1, lambda model, version: p)
        told: list[AggregateEvent] = []
        for day in range(18):
            if day <= 10:
                aggregate.merge(deltas(p, _events(day, 400, right=0.2 if day == bad else 0.8)))
            if day >= 10:
                aggregate.merge(deltas(p, _events(day, 400, seed=1), version=2))
            told += aggregate.merge(watermark((day + 1) * DAY))
        assert bool(_opened_in(told, "1d")) == judged
        assert _opened_in(told, "1d", version=2) == []


def test_what_cancels_out_revises_nothing() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    _feed(aggregate, [deltas(p, _events(0, 40)), watermark(5 * DAY)])
    counts = p.labelled(p.compact(prediction()), 1, 0)
    both = [PaneDelta("", 0, 5 * DAY, pack_counters(c)) for c in (counts, negated(counts))]
    for delta in both:
        aggregate.merge(JoinedDelta("m", 1, p.layout, 0, [delta]))
    assert _quality(_feed(aggregate, [watermark(7 * DAY)]), state="revised") == []


def test_the_last_correction_finds_every_pane_of_its_windows() -> None:
    """Three days until the label, seven until its correction: windows of seven days still hold what came before."""
    p = plan(watch=("accuracy",), windows=("1d", "7d", "7d/7d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = {day: _events(day, 40) for day in range(25)}
    for day in range(20):
        _feed(aggregate, [deltas(p, events[day]), watermark((day + 1) * DAY)])
    wrong = events[10][0]
    compact = p.compact(wrong.prediction)
    counts = (
        negated(p.labelled(compact, wrong.label, wrong.delay_ms)),  # type: ignore[arg-type]
        p.labelled(compact, 1 - wrong.label, wrong.delay_ms),  # type: ignore[arg-type, operator]
    )
    correction = [PaneDelta(s, 10 * DAY, 20 * DAY, pack_counters(c)) for s in compact.segments for c in counts]
    told = _feed(aggregate, [deltas(p, events[20]), JoinedDelta("m", 1, p.layout, 0, correction), watermark(21 * DAY)])
    revised = _quality(told, state="revised", segment=None)
    assert _spans([m for m in revised if m.window == "7d"]) == [(end - 7, end, 280) for end in range(11, 18)]
    assert _spans([m for m in revised if m.window == "7d/7d"]) == [(7, 14, 280)]
    assert aggregate.models["m"].series[1].ignored == 0


def test_labels_count_once_however_many_versions_answered() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    # Day 2: the second version takes over at noon; from day 4 on a third answers in shadow, and goes on day 6.
    answers = [{1: 30}, {1: 30}, {1: 12, 2: 18}, {2: 30}, {2: 30, 3: 20}, {2: 30, 3: 30}, {2: 30, 3: 5}, {2: 30}]
    events: list[AggregateEvent] = []
    for day, versions in enumerate(answers):
        for version, n in versions.items():
            aggregate.merge(deltas(p, _events(day, n), version=version))
        events += aggregate.merge(watermark((day + 1) * DAY))
    events += aggregate.merge(watermark(12 * DAY))
    panes = [e for e in events if isinstance(e, PaneClosed)]
    assert [(to_ms(e.pane_start) // DAY, e.labelled) for e in panes if to_ms(e.pane_start) < 8 * DAY] == [
        (day, 30) for day in range(8)
    ]


def test_a_pane_is_told_closed_once_however_many_versions_close_it() -> None:
    plans = {1: plan(delay="3d"), 2: plan(delay="1d")}
    aggregate = AggregatePartition(1, lambda model, version: plans[version])
    told: list[AggregateEvent] = []
    for day in range(6):
        for version, p in plans.items():
            aggregate.merge(deltas(p, _events(day, 10, seed=version), version=version))
        told += aggregate.merge(watermark((day + 1) * DAY))
    closed = [event for event in told if isinstance(event, PaneClosed)]
    assert [to_ms(event.pane_end) // DAY for event in closed] == [1, 2, 3, 4, 5]
    assert [to_ms(event.observed_at) // DAY for event in closed] == [2, 3, 4, 5, 6]
    assert {event.labelled for event in closed} == {10}


def test_revisions_do_not_rewind_detectors() -> None:
    p = plan(watch=("accuracy",), windows=("1d",))
    aggregates = [AggregatePartition(1, lambda model, version: p) for _ in range(2)]
    bad = _events(0, 200)
    compacts = [(p.compact(e.prediction), e.label, e.delay_ms) for e in bad]
    turned = [
        PaneDelta(s, 0, 8 * DAY, pack_counters(counts))
        for compact, label, delay in compacts
        for s in compact.segments
        for counts in (negated(p.labelled(compact, label, delay)), p.labelled(compact, 1 - label, delay))  # type: ignore[arg-type, operator]
    ]
    told: list[list[AggregateEvent]] = [[], []]
    for day in range(20):
        for aggregate, out in zip(aggregates, told, strict=True):
            if day == 8 and aggregate is aggregates[1]:
                out.extend(aggregate.merge(JoinedDelta("m", 1, p.layout, 0, turned)))
            of_day = deltas(p, bad if day == 0 else _events(day, 200))
            out.extend(_feed(aggregate, [of_day, watermark((day + 1) * DAY)]))
    first, second = (aggregate.models["m"].series[1].detectors for aggregate in aggregates)
    assert first == second
    assert _quality(told[0], state="revised") == []
    assert {to_ms(m.window_end) for m in _quality(told[1], state="revised")} == {DAY}
    assert [o for o in told[0] if isinstance(o, Observation)] == [o for o in told[1] if isinstance(o, Observation)]


def _spans(metrics: Sequence[QualityMetric]) -> list[tuple[int, int, int]]:
    return [(to_ms(m.window_start) // DAY, to_ms(m.window_end) // DAY, m.n) for m in metrics]


def test_tumbling_windows_follow_each_other_and_close_when_labels_can_no_longer_come() -> None:
    p = plan(watch=("accuracy",), windows=("7d/7d", "7d/7d+4d", "1d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    closed: dict[str, list[tuple[int, int, int, int]]] = {"7d/7d": [], "7d/7d+4d": []}
    for day in range(30):
        records = (
            [deltas(p, _events(day, 10)), watermark((day + 1) * DAY)] if day < 23 else [watermark((day + 1) * DAY)]
        )
        told = _feed(aggregate, records)
        for name, spans in closed.items():
            spans += [(day + 1, *span) for span in _spans(_quality(told, window=name, segment=None))]
    # (told at, start, end, events): three days, the longest label delay, after its end.
    assert closed["7d/7d"] == [(10, 0, 7, 70), (17, 7, 14, 70), (24, 14, 21, 70)]
    assert closed["7d/7d+4d"] == [(7, -3, 4, 40), (14, 4, 11, 70), (21, 11, 18, 70), (28, 18, 25, 50)]


def test_a_tumbling_window_closes_after_panes_without_traffic_too() -> None:
    p = plan(watch=("accuracy",), windows=("7d/7d", "7d", "1d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = [e for day in (1, 2) for e in _events(day, 20)]
    told = _feed(aggregate, [deltas(p, events), *(watermark(day * DAY) for day in range(3, 60))])
    closed = _quality(told, window="7d/7d")
    assert _spans([m for m in closed if m.segment is None]) == [(0, 7, 40)]
    assert sum(m.n for m in closed if m.segment is not None) == 40
    assert _spans(_quality(told, window="7d", segment=None)) == [(-5, 2, 20), (-4, 3, 40)]  # these follow the traffic
    drift = {(d.subject, d.n) for d in told if isinstance(d, DriftMetric) and d.window == "7d/7d"}
    assert drift == {(name, 40) for name in ("feature:distance", "feature:origin", "prediction", "label")}
    assert aggregate.models["m"].series == {}


def test_a_correction_revises_the_one_tumbling_window_that_holds_the_pane() -> None:
    p = plan(watch=("accuracy",), windows=("2d/2d", "1d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    events = [event for day in range(8) for event in _events(day, 40)]
    _feed(aggregate, [deltas(p, events), watermark(8 * DAY)])
    wrong = events[0]
    compact = p.compact(wrong.prediction)
    counts = (
        negated(p.labelled(compact, wrong.label, wrong.delay_ms)),  # type: ignore[arg-type]
        p.labelled(compact, 1 - int(wrong.label), wrong.delay_ms),  # type: ignore[arg-type]
    )
    correction = [PaneDelta(s, 0, 8 * DAY, pack_counters(c)) for s in compact.segments for c in counts]
    told = _feed(aggregate, [JoinedDelta("m", 1, p.layout, 0, correction), watermark(9 * DAY)])
    revised = _quality(told, state="revised", window="2d/2d")
    assert [(m.revision, *_spans([m])[0]) for m in revised if m.segment is None] == [(1, 0, 2, 80)]


def test_an_open_tumbling_window_is_told_before_it_ends() -> None:
    p = plan(watch=("accuracy",), windows=("7d/7d", "1d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    for day in (8, 9):
        aggregate.merge(deltas(p, _events(day, 20)))
    told = _quality(aggregate.provisional(), window="7d/7d", segment=None)
    assert _spans(told) == [(7, 14, 40)]


def test_a_tumbling_window_that_a_swap_cut_is_told_and_not_judged() -> None:
    p = plan(watch=("accuracy",), windows=("7d/7d", "1d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    told: list[AggregateEvent] = []
    for day in range(31):
        version, right = (1, 0.8 if day < 14 else 0.3) if day < 16 else (2, 0.8)
        record = deltas(p, _events(day, 400, right=right), version=version)
        told += _feed(aggregate, [record, watermark((day + 1) * DAY)])
    assert _spans(_quality(told, version=1, window="7d/7d", segment=None))[-1] == (14, 21, 800)
    opened = [o for o in told if isinstance(o, Observation) and o.kind == "quality" and o.status == "opened"]
    assert {o.window for o in opened if o.version == 1} >= {"1d"}
    assert "7d/7d" not in {o.window for o in opened}


_P = {
    task: plan(task, watch=(), windows=("1d", "3d/2d", "50n", "4d/4d+1d"), horizon="2d")
    for task in ("binary", "multiclass", "regression")
}


@st.composite
def _histories(draw: st.DrawFn) -> tuple[PanePlan, list[Event]]:
    task = draw(st.sampled_from(sorted(_P)))
    labels = {"binary": [0, 1], "multiclass": ["a", "b", "c", "new"], "regression": [0.0, 10.0, 250.5]}[task]
    n = draw(st.integers(1, 40))
    rng = random.Random(draw(st.integers(0, 2**32)))
    events = []
    for i in range(n):
        p = prediction(
            f"{i}",
            rng.randrange(6 * DAY),
            value=rng.random() * 300 if task == "regression" else rng.choice(labels),  # type: ignore[arg-type]
            probability=rng.random(),
            origin=rng.choice(["JFK", "LGA", "SFO", None]),
        )
        label = rng.choice([*labels, None])
        events.append(Event(p, label, rng.randrange(3 * DAY)))  # type: ignore[arg-type]
    return _P[task], events


@settings(max_examples=60, deadline=None)
@given(history=_histories(), seed=st.integers(0, 2**32), parts=st.integers(1, 4))
def test_final_windows_do_not_depend_on_order_or_batching(
    history: tuple[PanePlan, list[Event]], seed: int, parts: int
) -> None:
    p, events = history
    rng = random.Random(seed)

    def run(chunks: list[DeltaRecord], partitions: int) -> list[AggregateEvent]:
        aggregate = AggregatePartition(partitions, lambda model, version: p)
        for chunk in chunks:
            aggregate.merge(chunk)
        out: list[AggregateEvent] = []
        for day in range(1, 14):
            out += aggregate.merge(
                WatermarkUpdate([PartitionWatermark(q, day * DAY, False) for q in range(partitions)])
            )
        return out

    expected = run([deltas(p, events)], 1)
    shuffled = events[:]
    rng.shuffle(shuffled)
    size = rng.randint(1, len(events))
    pieces: list[DeltaRecord] = []
    for i in range(0, len(shuffled), size):
        pieces += split(deltas(p, shuffled[i : i + size]), parts)
    rng.shuffle(pieces)
    assert run(pieces, parts) == expected


@settings(max_examples=40, deadline=None)
@given(history=_histories(), seed=st.integers(0, 2**32), cut=st.integers(0, 20))
def test_interleaving_of_partitions_changes_no_closed_window(
    history: tuple[PanePlan, list[Event]], seed: int, cut: int
) -> None:
    """Partitions run ahead of each other: their deltas come early or late, but before their own watermark."""
    p, events = history
    rng = random.Random(seed)
    streams: list[list[DeltaRecord]] = []
    for q in range(3):
        own = [e for i, e in enumerate(events) if i % 3 == q]
        stream: list[DeltaRecord] = []
        for day in range(14):
            done = []
            for delta in deltas(p, own, partition=q).panes:
                if delta.effect_start_ms == day * DAY:
                    done.append(delta)
            if done:
                stream.append(JoinedDelta("m", 1, p.layout, q, done))
            stream.append(watermark((day + 1) * DAY, partition=q))
        streams.append(stream)

    def run(order: list[int]) -> tuple[list[AggregateEvent], bytes]:
        aggregate = AggregatePartition(3, lambda model, version: p)
        left = [list(stream) for stream in streams]
        out: list[AggregateEvent] = []
        for n, q in enumerate(order):
            if n == cut:
                aggregate = AggregatePartition.from_snapshot(aggregate.snapshot(), lambda model, version: p)
            out += aggregate.merge(left[q].pop(0))
        return out, aggregate.snapshot()

    sequential = [q for i in range(max(map(len, streams))) for q in range(3) if i < len(streams[q])]
    mixed = sequential[:]
    rng.shuffle(mixed)
    assert run(mixed) == run(sequential)


def test_snapshot_restores_everything_detectors_included() -> None:
    p = plan(watch=("accuracy",), windows=("1d", "7d", "1000n"))
    whole = AggregatePartition(1, lambda model, version: p)
    stopped = AggregatePartition(1, lambda model, version: p)
    for day in range(25):
        records = [deltas(p, _events(day, 200, right=0.8 if day < 12 else 0.5)), watermark((day + 1) * DAY)]
        expected = _feed(whole, records)
        stopped = AggregatePartition.from_snapshot(stopped.snapshot(), lambda model, version: p)
        assert _feed(stopped, records) == expected
    assert stopped.snapshot() == whole.snapshot()
    with pytest.raises(StateError, match="not a snapshot"):
        AggregatePartition.from_snapshot(b"\x93nonsense", lambda model, version: p)


def test_state_is_bounded() -> None:
    p = plan(windows=("1d", "7d"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    sizes = []
    for day in range(60):
        _feed(aggregate, [deltas(p, _events(day, 30)), watermark((day + 1) * DAY)])
        sizes.append(len(aggregate.snapshot()))
    assert max(sizes[40:]) < 1.2 * max(sizes[20:40])


@pytest.mark.parametrize("events", [300, 3_000])
def test_a_pane_closes_quickly(events: int) -> None:
    """Some eight thousand calls (a few milliseconds), however many events it holds."""
    p = plan(watch=("brier", "accuracy"), windows=("1d", "7d", "1000n"))
    aggregate = AggregatePartition(1, lambda model, version: p)
    spent = []
    for day in range(20):
        aggregate.merge(deltas(p, _events(day, events)))
        end = watermark((day + 1) * DAY)
        spent.append(calls_of(lambda: aggregate.merge(end)))  # noqa: B023
    assert float(np.median(spent)) < 12_000


def test_times_are_those_of_the_decision() -> None:
    p = plan()
    aggregate = AggregatePartition(1, lambda model, version: p)
    out = _feed(aggregate, [deltas(p, _events(0, 10)), watermark(30 * DAY)])
    closed = next(e for e in out if isinstance(e, PaneClosed))
    assert (closed.pane_start, closed.pane_end, closed.observed_at) == (utc(0), utc(DAY), utc(4 * DAY))


@settings(max_examples=30, deadline=None)
@given(history=_histories(), seed=st.integers(0, 2**32))
def test_an_aborted_batch_leaves_nothing_behind(history: tuple[PanePlan, list[Event]], seed: int) -> None:
    p, events = history
    rng = random.Random(seed)
    records: list[DeltaRecord] = []
    for day in range(1, 12):
        of_day = deltas(p, [e for e in events if e.prediction.event_time_ms // DAY == day - 1])
        records += [*split(of_day, rng.randint(1, 3)), watermark(day * DAY)]
    whole = AggregatePartition(1, lambda model, version: p)
    shaken = AggregatePartition(1, lambda model, version: p)
    expected = _feed(whole, records)
    got: list[AggregateEvent] = []
    at = 0
    while at < len(records):
        batch = records[at : at + rng.randint(1, 5)]
        before = shaken.snapshot()
        shaken.begin()
        out = _feed(shaken, batch)
        if rng.random() < 0.5:
            shaken.abort()
            assert shaken.snapshot() == before
            continue
        shaken.commit()
        got += out
        at += len(batch)
    assert got == expected
    assert shaken.snapshot() == whole.snapshot()


def test_a_watermark_looks_only_at_models_that_it_concerns() -> None:
    p = plan(watch=("accuracy",))
    asked: list[str] = []

    def plan_of(model: str, version: int) -> PanePlan:
        asked.append(model)
        return p

    aggregate = AggregatePartition(1, plan_of)
    for day, model in ((0, "early"), (9, "late")):
        record = msgspec.structs.replace(deltas(p, _events(day, 10)), model=model)
        aggregate.merge(record)
    asked.clear()
    aggregate.merge(watermark(5 * DAY))
    assert set(asked) == {"early"}
    asked.clear()
    assert aggregate.merge(watermark(5 * DAY + 1)) == []
    assert asked == []


def test_news_wait_their_turn() -> None:
    p = plan(watch=("accuracy",))
    aggregate = AggregatePartition(1, lambda model, version: p)
    for model in ("a", "b", "c", "a"):
        aggregate.merge(msgspec.structs.replace(deltas(p, _events(0, 5)), model=model))

    def told() -> str:
        metrics = aggregate.next_provisional()
        assert metrics
        return metrics[0].model

    assert told() == "a"
    aggregate.merge(msgspec.structs.replace(deltas(p, _events(0, 5)), model="a"))
    assert [told(), told(), told()] == ["b", "c", "a"]
    assert aggregate.next_provisional() is None


def test_detectors_built_for_each_closing_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p = plan(watch=("accuracy",))
    records: list[DeltaRecord] = []
    for day in range(25):
        records += [deltas(p, _events(day, 300, right=0.8 if day < 12 else 0.4)), watermark((day + 1) * DAY)]
    kept = _feed(AggregatePartition(1, lambda model, version: p), records)
    monkeypatch.setattr("streams.aggregate.MOST_KEPT", 0)
    assert _feed(AggregatePartition(1, lambda model, version: p), records) == kept
    assert any(isinstance(event, Observation) for event in kept)


def test_many_small_contributions_add_up() -> None:
    p = plan(watch=("accuracy",))
    events = _events(0, 90)
    whole = AggregatePartition(1, lambda model, version: p)
    single = AggregatePartition(1, lambda model, version: p)
    whole.merge(deltas(p, events))
    for event in events:
        single.merge(deltas(p, [event]))
    assert single.provisional() == whole.provisional()
    waiting = single.models["m"].series[1].pending._parts.values()
    assert max(map(len, waiting)) <= MOST_PARTS
    assert _feed(single, [watermark(9 * DAY)]) == _feed(whole, [watermark(9 * DAY)])
