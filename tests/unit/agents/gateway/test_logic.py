"""The fold of events into what the page shows."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from agents.gateway.logic import (
    POINTS_A_SERIES,
    Board,
    SeriesKey,
    chart,
    drift_table,
    in_words,
    incident_rows,
    newest_value,
    ordered_windows,
)
from schemas.events import (
    FLEET,
    Alert,
    DriftMetric,
    Estimate,
    JournalRecord,
    ModelPromoted,
    ModelRolledBack,
    QualityMetric,
)
from tests.support.gateway import MODEL, START, MemoryRegistry, fill, quality

AUC = "roc_auc"


def alert(number: int, status: str, day: int = 0) -> Alert:
    opened = START + timedelta(days=number)
    return Alert(
        incident_id=f"i{number}",
        model=MODEL,
        version=1,
        kind="quality",
        subject=AUC,
        segment=None,
        severity="warning",
        status=status,
        opened_at=opened,
        closed_at=opened + timedelta(days=1) if status == "closed" else None,
        title=f"{status} {day}",
        explanation="because",
    )


def promoted(version: int, event: str, previous: int | None = None) -> ModelPromoted:
    return ModelPromoted(
        event_id=event,
        epoch=version,
        at=START,
        model=MODEL,
        actor="a",
        version=version,
        previous=previous,
        artifact="x",
    )


def drift(day: int, subject: str, psi: float | None, version: int = 1) -> DriftMetric:
    return DriftMetric(
        model=MODEL,
        version=version,
        segment=None,
        subject=subject,
        window="7d",
        window_start=START + timedelta(days=day - 7),
        window_end=START + timedelta(days=day),
        state="closed",
        revision=0,
        n=10,
        statistics={"psi": psi},
    )


def values(board: Board, window: str = "1d", segment: str = "") -> list[list[float]]:
    return [line["y"] for line in chart(board.model(MODEL), AUC, window, segment)]  # type: ignore[misc]


def test_windows_are_drawn_in_order_of_time_one_line_a_version() -> None:
    board = Board()
    for day, version, value in [(3, 1, 0.7), (1, 1, 0.6), (2, 2, 0.65), (4, 2, 0.75)]:
        board.add_quality(quality(day, version, value))
    assert values(board) == [[0.6, 0.7], [0.65, 0.75]]


def test_a_revision_replaces_its_window() -> None:
    board = Board()
    board.add_quality(quality(1, 1, 0.6))
    board.add_quality(quality(2, 1, 0.61))
    board.add_quality(quality(1, 1, 0.7, state="revised"))
    assert values(board) == [[0.7, 0.61]]


def test_estimates_are_a_line_of_their_own_with_interval_and_trust_and_never_the_figure_shown() -> None:
    board = Board()
    board.add_quality(quality(1, 1, 0.6))
    for day, trust in ((1, 0.4), (2, 0.5)):
        estimate = Estimate(intervals={AUC: (0.55, 0.75)}, trust=trust)
        board.add_quality(msgspec.structs.replace(quality(day, 1, 0.65), estimated=True, estimate=estimate))
    real, estimated = chart(board.model(MODEL), AUC, "1d", "")
    assert (real["y"], real["estimated"], "low" in real) == ([0.6], False, False)
    assert (estimated["y"], estimated["estimated"]) == ([0.65, 0.65], True)
    assert (estimated["low"], estimated["high"], estimated["trust"]) == ([0.55, 0.55], [0.75, 0.75], 0.5)
    newest = newest_value(board.model(MODEL), AUC, "1d")
    assert newest is not None
    assert newest[0].values[AUC] == 0.6


def test_an_open_window_is_the_last_point_until_it_closes() -> None:
    board = Board()
    board.add_quality(quality(1, 1, 0.6))
    for value in (0.1, 0.2):
        board.add_quality(quality(2, 1, value, state="provisional"))
    assert values(board) == [[0.6, 0.2]]
    board.add_quality(quality(2, 1, 0.62))
    assert values(board) == [[0.6, 0.62]]
    board.add_quality(quality(2, 1, 0.9, state="provisional"))
    assert values(board) == [[0.6, 0.62]], "a provisional record that comes late does not reopen a window"


def test_the_newest_closed_window_of_the_champion_is_the_figure_shown() -> None:
    board = Board()
    assert newest_value(board.model(MODEL), AUC, "1d") is None
    board.add_quality(quality(1, 1, 0.6, state="provisional"))
    found = newest_value(board.model(MODEL), AUC, "1d")
    assert found is not None
    assert found[0].values[AUC] == 0.6
    board.add_quality(quality(5, 1, 0.5))
    board.add_quality(quality(4, 2, 0.8))
    board.add_event(promoted(2, "p2"))
    found = newest_value(board.model(MODEL), AUC, "1d")
    assert found is not None
    assert (found[0].values[AUC], found[1]) == (0.8, 2)


def test_series_are_bounded_and_forget_the_oldest() -> None:
    board = Board()
    for day in range(POINTS_A_SERIES + 20):
        board.add_quality(quality(day, 1, 0.5))
    closed = board.model(MODEL).quality[SeriesKey("1d", "", 1)].closed
    assert len(closed) == POINTS_A_SERIES
    assert min(closed) == max(closed) - (POINTS_A_SERIES - 1) * 86_400_000


def test_segments_and_windows_have_lines_of_their_own() -> None:
    board = Board()
    board.add_quality(quality(1, 1, 0.6))
    board.add_quality(quality(1, 1, 0.7, segment={"origin": "JFK"}))
    board.add_quality(quality(1, 1, 0.8, window="1000n"))
    board.add_quality(quality(7, 1, 0.9, window="7d"))
    found = board.model(MODEL)
    assert found.windows() == ["1d", "7d", "1000n"]
    assert found.segments() == ["", "origin=JFK"]
    assert values(board, segment="origin=JFK") == [[0.7]]
    assert values(board, window="7d") == [[0.9]]


def test_windows_are_listed_by_length_those_that_end_often_last_then_counts() -> None:
    names = ["1000n", "7d", "7d/7d", "1d", "7d/1d", "50n", "pane"]
    assert ordered_windows(names) == ["pane", "1d", "7d/7d", "7d/1d", "7d", "50n", "1000n"]


def test_incidents_hold_their_newest_news_and_stay_closed() -> None:
    board = Board()
    for news in (alert(1, "opened"), alert(1, "updated"), alert(1, "closed"), alert(2, "opened"), alert(3, "opened")):
        board.add_alert(news)
    board.add_alert(alert(1, "opened"))  # the topic is read again from its beginning
    listed = board.model(MODEL).listed_incidents()
    assert [(a.incident_id, a.status) for a in listed] == [("i3", "opened"), ("i2", "opened"), ("i1", "closed")]
    assert [a.incident_id for a in board.model(MODEL).open_incidents()] == ["i3", "i2"]


def test_an_incident_that_comes_back_is_open_again() -> None:
    board = Board()
    for news in (alert(1, "opened"), alert(1, "closed"), alert(1, "updated")):
        board.add_alert(news)
    assert [a.status for a in board.model(MODEL).open_incidents()] == ["updated"]


def test_an_incident_of_many_models_shows_with_each_that_it_names() -> None:
    board = Board()
    board.model("other")
    shared = msgspec.structs.replace(
        alert(1, "opened"), model=FLEET, version=0, evidence={"blast_radius": {"models": 3, "names": [MODEL, "b", "c"]}}
    )
    board.add_alert(shared)
    board.add_alert(alert(2, "opened"))
    assert FLEET not in board.models
    assert [a.incident_id for a in board.open_incidents_of(MODEL)] == ["i2", "i1"]
    assert board.incidents_of("other") == []
    assert [a.model for a in incident_rows([alert(2, "opened"), shared])] == [MODEL, FLEET]
    board.add_alert(msgspec.structs.replace(shared, status="closed"))
    assert [a.incident_id for a in board.open_incidents_of(MODEL)] == ["i2"]


def test_incident_rows_are_what_the_command_lists() -> None:
    rows = incident_rows([alert(1, "opened"), alert(2, "opened"), alert(2, "closed")])
    assert [(a.incident_id, a.status) for a in rows] == [("i1", "opened"), ("i2", "closed")]


def test_champion_follows_promotion_and_rollback_and_repeats_count_once() -> None:
    board = Board()
    board.add_event(promoted(1, "a"))
    board.add_event(promoted(2, "b", previous=1))
    board.add_event(promoted(2, "b", previous=1))
    board.add_event(
        ModelRolledBack(
            event_id="c", epoch=3, at=START, model=MODEL, actor="x", version=1, previous=2, artifact="x", reason="worse"
        )
    )
    found = board.model(MODEL)
    assert found.champion == 1
    assert [version for _, version in found.promotions] == [1, 2, 1]
    assert [a.text for a in found.activity] == [
        "Rolled back from 2 to 1: worse",
        "Version 2 is champion in place of 1",
        "Version 1 is champion",
    ]


def test_every_event_of_the_schemas_has_words_of_its_own() -> None:
    import typing

    from schemas import events

    kinds = [
        kind
        for union in (events.AnyRegistryEvent, events.AnyTrainingEvent, events.AnyServingEvent)
        for kind in typing.get_args(union)
    ]
    assert len(kinds) == 27
    sample: dict[str, object] = {
        "version": 2, "previous": 1, "parent": 1, "from_version": 1, "to_version": 2, "rows": 10, "approvers": 1,
        "tags": {"a": "b"}, "removed": ["c"],
        "epoch": 3, "rollback_epoch": 3,
        "pause_ms": 0.5, "offsets": {}, "report": {}, "at": START, "decision": "promoted",
    }  # fmt: skip
    for kind in kinds:
        values = {name: sample.get(name, "text") for name in kind.__struct_fields__}
        event = kind(**values | ({"rows": {"predictions": 10}} if kind is events.ArchiveExpired else {}))
        what, text, tone = in_words(event)
        assert what in {"run", "registry", "serving", "access"}, kind
        assert text != kind.__name__, kind
        assert tone in {"good", "bad", "busy", "plain"}


def test_drift_lists_the_farthest_first_of_one_version_and_leaves_out_what_has_no_value() -> None:
    board = Board()
    for metric in (
        drift(7, "feature:a", 0.1),
        drift(8, "feature:a", 0.3),
        drift(8, "feature:b", 0.9),
        drift(8, "label", None),
        drift(8, "feature:a", 5.0, version=2),
    ):
        board.add_drift(metric)
    rows = drift_table(board.model(MODEL), "7d", 1, "psi")
    assert [(row["subject"], row["value"]) for row in rows] == [("feature:b", 0.9), ("feature:a", 0.3)]
    assert rows[1]["y"] == [0.1, 0.3]


def test_totals_are_summed_over_the_newest_record_of_each_partition() -> None:
    board = Board()
    for partition, labelled in ((0, 1), (1, 10), (0, 5)):
        board.add_journal(
            JournalRecord(
                partition=partition,
                slices={},
                watermark_ms=partition,
                topic_watermarks_ms={},
                idle={},
                now_ms=0,
                registry_epoch=0,
                low_water={},
                journal_low_water=0,
                totals={"labelled": labelled},
                partitions=2,
            )
        )
    assert board.accounting() == {"labelled": 15}


@pytest.mark.parametrize("times", [1, 2])
def test_reading_everything_again_changes_nothing(times: int) -> None:
    board, again, registry = Board(), Board(), MemoryRegistry()
    fill(board, registry, days=20)
    for _ in range(times):
        fill(again, registry, days=20)
    ours, theirs = board.models[MODEL], again.models[MODEL]
    assert ours.listed_incidents() == theirs.listed_incidents()
    assert list(ours.activity) == list(theirs.activity)
    assert chart(ours, AUC, "7d", "") == chart(theirs, AUC, "7d", "")
    assert board.accounting() == again.accounting()


def test_changes_count_what_readers_have_to_look_at_again() -> None:
    board = Board()
    board.add_quality(quality(1, 1, 0.5))
    board.add_alert(alert(1, "opened"))
    board.add_event(promoted(1, "a"))
    assert board.model(MODEL).changes == {"quality": 1, "incidents": 1, "activity": 1, "versions": 1}


def test_metrics_listed_are_those_seen() -> None:
    board = Board()
    metric = quality(1, 1, 0.5)
    board.add_quality(metric)
    assert board.model(MODEL).metrics() == list(metric.metrics)
    assert isinstance(metric, QualityMetric)
