"""The replay and its disturbance: seeded, in event time, complete, and named in the counts."""

from __future__ import annotations

from collections import Counter

import msgspec
import pandas as pd
import pytest

from agents.demo.traffic import Event, Rates, Traffic
from schemas.codec import decode_ground_truth, decode_request
from schemas.errors import DecodeError
from schemas.specification import parse
from schemas.topics import DAY_MS, GROUND_TRUTH, INFERENCE_REQUESTS

SPEC = parse(
    """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label_time = "known"
label = "y"
max_label_delay = "3d"
[features]
x = "numeric"
s = "categorical"
[metrics]
primary = "roc_auc"
"""
)
COUNT = 4_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    at = pd.Timestamp("2013-02-01", tz="UTC") + pd.to_timedelta(range(COUNT), unit="min")
    return pd.DataFrame(
        {
            "id": [f"f{i}" for i in range(COUNT)],
            "at": at,
            "known": (at + pd.Timedelta(hours=5)).where([i % 50 != 0 for i in range(COUNT)]),
            "y": pd.array([None if i % 50 == 0 else i % 2 for i in range(COUNT)], dtype="Int8"),
            "x": [None if i % 7 == 0 else float(i) for i in range(COUNT)],
            "s": ["a"] * COUNT,
        }
    )


def all_events(traffic: Traffic) -> list[Event]:
    return [event for _, events in traffic.days() for event in events]


def test_a_clean_replay_sends_each_row_once_and_each_label_when_it_is_known(frame: pd.DataFrame) -> None:
    events = all_events(Traffic(frame, SPEC, None, 1))
    requests = [decode_request(e.value) for e in events if e.topic == INFERENCE_REQUESTS]
    labels = [decode_ground_truth(e.value) for e in events if e.topic == GROUND_TRUTH]
    assert [r.request_id for r in requests] == frame["id"].tolist()
    assert len(labels) == frame["y"].notna().sum()
    assert requests[7].features == {"x": None, "s": "a"}
    by_id = {label.prediction_id: label for label in labels}
    assert by_id["f1"].event_time_ms - requests[1].event_time_ms == 5 * 3_600_000
    assert "f0" not in by_id


def test_days_hold_what_belongs_to_them_in_order(frame: pd.DataFrame) -> None:
    for end, events in Traffic(frame, SPEC, Rates(), 1).days():
        times = [event.time_ms for event in events]
        assert times == sorted(times)
        assert all(end - DAY_MS <= time < end for time in times)


def test_the_disturbance_is_seeded_and_counted(frame: pd.DataFrame) -> None:
    rates = Rates(malformed=0.01, duplicate=0.02, corrected=0.02, late=0.01)
    first, again, other = (Traffic(frame, SPEC, rates, seed) for seed in (1, 1, 2))
    assert all_events(first) == all_events(again)
    assert all_events(first) != all_events(other)
    counts = first.disturbance.counts
    events = all_events(first)
    sent = Counter(e.key for e in events if e.topic == INFERENCE_REQUESTS and not e.key.startswith(b"malformed"))
    assert sum(n - 1 for n in sent.values()) == counts["duplicate requests"] > 0
    revisions = Counter(
        decode_ground_truth(e.value).revision
        for e in events
        if e.topic == GROUND_TRUTH and not e.key.startswith(b"malformed")
    )
    assert revisions[1] == counts["corrected labels"] > 0
    assert counts["late labels"] > 0
    broken = [e for e in events if e.key.startswith(b"malformed")]
    assert len(broken) == sum(n for kind, n in counts.items() if kind.startswith("malformed")) == round(COUNT * 0.01)


def test_every_malformed_record_is_refused_by_the_codec(frame: pd.DataFrame) -> None:
    events = all_events(Traffic(frame, SPEC, Rates(malformed=0.02), 3))
    broken = [e for e in events if e.key.startswith(b"malformed")]
    assert len(broken) == 80
    for event in broken:
        with pytest.raises(DecodeError):
            (decode_request if event.topic == INFERENCE_REQUESTS else decode_ground_truth)(event.value)


def test_late_labels_come_after_the_horizon(frame: pd.DataFrame) -> None:
    traffic = Traffic(frame, SPEC, Rates(0, 0, 0, late=0.05), 3)
    at = dict(zip(traffic.ids, traffic.times.tolist(), strict=True))
    late = [
        msgspec.json.decode(e.value)
        for e in all_events(traffic)
        if e.topic == GROUND_TRUTH and e.time_ms - at[e.key.decode()] > SPEC.max_label_delay_ms
    ]
    assert len(late) == traffic.disturbance.counts["late labels"] > 0
