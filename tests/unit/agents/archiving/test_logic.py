"""Records become columns; what cannot be decoded is kept as it came."""

from __future__ import annotations

import json

import pytest

from agents.archiving.logic import ARCHIVED, SCHEMAS, Rows, tabulate
from schemas.codec import encode, utc
from schemas.events import Alert, DriftMetric, Estimate, GroundTruth, Prediction, QualityMetric
from schemas.topics import ALERTS, DRIFT_METRICS, GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS
from streams.kafka.records import Record

WINDOW = {
    "model": "m",
    "version": 2,
    "segment": {"origin": "EWR"},
    "window": "1d",
    "window_start": utc(0),
    "window_end": utc(86_400_000),
    "state": "closed",
    "revision": 0,
    "n": 10,
}
SAMPLES = {
    PREDICTIONS: Prediction(
        prediction_id="a",
        model="m",
        version=1,
        event_time_ms=5,
        features={"x": 1.5, "y": None, "z": "ü"},
        prediction=1,
        probability={"0": 0.25, "1": 0.75},
        segment={"origin": "EWR"},
    ),
    GROUND_TRUTH: GroundTruth(prediction_id="a", event_time_ms=7, label="late", revision=2),
    QUALITY_METRICS: QualityMetric(**WINDOW, coverage=0.5, metrics={"roc_auc": 0.7, "brier": None}),
    DRIFT_METRICS: DriftMetric(**WINDOW, subject="feature:x", statistics={"psi": 0.1}),
    ALERTS: Alert(
        incident_id="i",
        model="m",
        version=2,
        kind="quality",
        subject="roc_auc",
        segment=None,
        severity="warning",
        status="opened",
        opened_at=utc(0),
        closed_at=None,
        title="t",
        explanation="e",
    ),
}


def record(topic: str, value: bytes | None, offset: int = 0, key: bytes | None = b"k") -> Record:
    return Record(topic, 3, offset, key, value, None, 9)


@pytest.mark.parametrize("topic", ARCHIVED)
def test_every_archived_topic_keeps_its_fields(topic: str) -> None:
    table = tabulate(topic, [record(topic, encode(SAMPLES[topic]), 4)])
    assert table.schema == SCHEMAS[topic]
    (row,) = table.to_pylist()
    assert (row["partition"], row["offset"], row["timestamp_ms"], row["problem"]) == (3, 4, 9, None)
    sent = json.loads(encode(SAMPLES[topic]))
    for name in set(sent) & set(row) - {"segment"}:
        got = row[name]
        if isinstance(sent[name], dict) or name in {"label", "prediction"}:
            got = json.loads(got)
        if name.endswith(("_at", "_start", "_end")) and got is not None:
            assert got.timestamp() * 1000 in {0, 86_400_000}
            continue
        assert got == sent[name], name
    assert len(set(sent) & set(row)) >= len(sent) - 2


def test_an_estimate_keeps_its_interval_and_what_came_true() -> None:
    estimate = Estimate(intervals={"roc_auc": (0.6, 0.8)}, trust=0.5, realised={"roc_auc": 0.71}, labelled=9)
    metric = QualityMetric(**WINDOW, coverage=0.9, metrics={"roc_auc": 0.7}, estimated=True, estimate=estimate)
    (row,) = tabulate(QUALITY_METRICS, [record(QUALITY_METRICS, encode(metric))]).to_pylist()
    assert row["estimated"]
    assert json.loads(row["estimate"]) == {
        "intervals": {"roc_auc": [0.6, 0.8]},
        "trust": 0.5,
        "realised": {"roc_auc": 0.71},
        "labelled": 9,
    }
    (plain,) = tabulate(QUALITY_METRICS, [record(QUALITY_METRICS, encode(SAMPLES[QUALITY_METRICS]))]).to_pylist()
    assert plain["estimate"] is None


@pytest.mark.parametrize("topic", ARCHIVED)
@pytest.mark.parametrize(
    "value",
    [b"\xff\xfe", b"{", b"[]", b"{}", b"", b'{"prediction_id": 1}', b"\x00" * 1_100_000],
    ids=lambda v: repr(v[:9]),
)
def test_poison_is_kept_as_it_came(topic: str, value: bytes) -> None:
    rows = Rows(topic, 3)
    rows.add([record(topic, value)])
    (row,) = rows.table().to_pylist()
    assert row["problem"]
    assert (row["raw"], row["key"], rows.problems) == (value, b"k", 1)
    assert rows.times() == (None, None)


@pytest.mark.parametrize(
    ("topic", "field", "value"),
    [(PREDICTIONS, "version", 2**40), (GROUND_TRUTH, "revision", 2**70), (QUALITY_METRICS, "n", 2**70)],
)
def test_numbers_that_no_column_holds_are_problems(topic: str, field: str, value: int) -> None:
    wrong = {**json.loads(encode(SAMPLES[topic])), field: value}
    (row,) = tabulate(topic, [record(topic, json.dumps(wrong).encode())]).to_pylist()
    assert f"{field} {value} does not fit" in row["problem"]


def test_tombstones_withdraw_and_have_no_time() -> None:
    rows = Rows(GROUND_TRUTH, 3)
    rows.add(
        [
            record(GROUND_TRUTH, None, 1, b"a"),
            record(GROUND_TRUTH, None, 2, b"\xff"),
            record(GROUND_TRUTH, None, 3, None),
        ]
    )
    first, second, third = rows.table().to_pylist()
    assert (first["prediction_id"], first["withdrawn"], first["event_time_ms"], first["problem"]) == (
        "a",
        True,
        None,
        None,
    )
    assert second["problem"]
    assert third["problem"]
    assert (rows.timeless, rows.problems, rows.first, rows.last) == (1, 2, 1, 3)


def test_heartbeats_are_left_out() -> None:
    rows = Rows(PREDICTIONS, 3)
    beat = record(PREDICTIONS, b'{"event_time_ms": 1}')._replace(headers=[("ce_type", b"Heartbeat")])
    rows.add([beat])
    assert rows.rows == []
