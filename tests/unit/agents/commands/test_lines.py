"""What `produce` and `predict` read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.commands.lines import CONTENT, HEARTBEAT, messages, moment, parse_features, unchecked
from schemas.errors import ConfigurationError, DecodeError, DriftlineError

REQUEST = {"request_id": "r1", "model": "m", "event_time_ms": 5, "features": {"a": 1.5}}
PREDICTION = {
    "prediction_id": "p1",
    "model": "m",
    "version": 1,
    "event_time_ms": 5,
    "features": {},
    "prediction": 1,
    "probability": 0.7,
}
TRUTH = {"prediction_id": "p1", "event_time_ms": 9, "label": None}


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("kind", "value", "topic", "key"),
    [
        ("requests", REQUEST, "inference-requests", b"r1"),
        ("inference-requests", REQUEST, "inference-requests", b"r1"),
        ("predictions", PREDICTION, "predictions", b"p1"),
        ("ground-truth", TRUTH, "ground-truth", b"p1"),
        ("labels", TRUTH, "ground-truth", b"p1"),
    ],
)
def test_a_line_becomes_one_keyed_record_with_the_bytes_as_written(
    kind: str, value: object, topic: str, key: bytes
) -> None:
    line = _bytes(value)
    [[message]] = messages(kind, [b"  " + line + b" \r\n"], source="f")
    assert message == (topic, key, line, CONTENT, False)


def test_a_heartbeat_speaks_for_every_partition_of_both_topics() -> None:
    [group] = messages("heartbeat", [b'{"event_time_ms": 7}'], source="f")
    assert [(m.topic, m.key, m.headers, m.every_partition) for m in group] == [
        ("predictions", None, HEARTBEAT, True),
        ("ground-truth", None, HEARTBEAT, True),
    ]


def test_of_a_heartbeat_nothing_but_its_time_is_sent() -> None:
    # Heartbeats are sent without the encryption; whoever names the wrong kind sends a file of people.
    line = b'{"prediction_id": "p", "model": "m", "features": {"who": "Ann"}, "prediction": 1, "event_time_ms": 7}'
    [group] = messages("heartbeat", [line], source="f")
    assert {m.value for m in group} == {b'{"event_time_ms":7,"schema_version":1}'}


def test_empty_lines_are_passed_over_and_a_wrong_one_is_named() -> None:
    lines = [_bytes(TRUTH), b"\n", b"", b'{"prediction_id": "p2"}', _bytes(TRUTH)]
    read = messages("ground-truth", lines, source="labels.jsonl")
    assert len(next(read)) == 1
    with pytest.raises(DecodeError) as caught:
        next(read)
    assert caught.value.where == "labels.jsonl:4"
    assert "event_time_ms" in caught.value.what
    assert "--raw" in caught.value.remedy


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"prediction_id": "", "event_time_ms": 1, "label": 1}', b'{"schema_version": 9}']
)
def test_bad_labels_are_refused(line: bytes) -> None:
    with pytest.raises(DecodeError):
        list(messages("ground-truth", [line], source="f"))


def test_unknown_kinds_name_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="'alerts' cannot be produced") as caught:
        list(messages("alerts", [], source="f"))
    assert "requests, predictions, ground-truth, heartbeat" in caught.value.remedy


def test_raw_lines_go_as_they_are_keyed_where_they_can_be() -> None:
    lines = [b'{"prediction_id": "p9", "label": "?"}\n', b"not json\r\n", b"\n", b"[1]"]
    sent = [m for group in unchecked("ground-truth", lines, key_field="prediction_id") for m in group]
    assert [(m.key, m.value) for m in sent] == [
        (b"p9", b'{"prediction_id": "p9", "label": "?"}'),
        (None, b"not json"),
        (None, b"[1]"),
    ]


def test_features_come_from_text_or_file(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text('{"a": 1, "b": "x", "c": true, "d": null}')
    assert parse_features(f"@{file}") == {"a": 1, "b": "x", "c": True, "d": None}
    assert parse_features('{"a": 2.5}') == {"a": 2.5}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": [1]}', "@/nowhere/at-all.json"])
def test_bad_features_say_what_to_write(text: str) -> None:
    with pytest.raises(DriftlineError) as caught:
        parse_features(text)
    assert caught.value.remedy
    assert caught.value.where


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.250", 250),
    ],
)
def test_times_without_a_zone_are_utc(text: str, ms: int) -> None:
    assert moment(text) == ms


def test_a_wrong_time_says_how_to_write_one() -> None:
    with pytest.raises(ConfigurationError, match="is no time"):
        moment("yesterday")
