"""Decoding traffic: what is accepted, and the reason given for what is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import (
    cloudevent_headers,
    decode_ground_truth,
    decode_heartbeat,
    decode_prediction,
    decode_request,
    derived_id,
    encode,
    is_heartbeat,
    iso,
    segment_key,
    segment_of,
    to_ms,
    utc,
)
from schemas.errors import DecodeError
from schemas.events import Alert, GroundTruth, Heartbeat, Prediction
from schemas.topics import MAX_MESSAGE_BYTES

PREDICTION = {
    "prediction_id": "a",
    "model": "m",
    "version": 1,
    "event_time_ms": 1_700_000_000_000,
    "features": {"x": 1.5, "s": "t", "b": True, "n": None},
    "prediction": 1,
    "probability": 0.25,
}


def _json(**changes: object) -> bytes:
    return msgspec.json.encode({**PREDICTION, **changes})


def test_bare_json_is_accepted_and_unknown_fields_are_ignored() -> None:
    prediction = decode_prediction(_json(colour="red"))
    assert prediction.features == {"x": 1.5, "s": "t", "b": True, "n": None}
    assert prediction.schema_version == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b'{"prediction_id": "a"', "malformed-json"),
        (b"\xff\xfe", "malformed-json"),
        (b"[" * 100_000, "schema"),
        (b'{"x": ' * 100_000, "malformed-json"),
        (b'{"prediction_id": NaN}', "malformed-json"),
        (_json().replace(b"0.25", b"NaN"), "malformed-json"),
        (_json().replace(b"0.25", b"1e999"), "schema"),
        (b"x" * (MAX_MESSAGE_BYTES + 1), "oversize"),
        (_json(probability=1.5), "schema"),
        (_json(probability={"a": -0.1}), "schema"),
        (_json(version=""), "schema"),
        (_json(version="v" * 129), "schema"),
        (_json(version=1.5), "schema"),
        (_json(version=None), "schema"),
        (_json(event_time_ms="noon"), "schema"),
        (_json(event_time_ms=-1), "schema"),
        (_json(event_time_ms=10**17), "schema"),
        (_json(prediction_id=""), "schema"),
        (_json(prediction=None), "schema"),
        (_json(features={"x": [1]}), "schema"),
        (_json(schema_version=2), "unknown-schema-version"),
        (b"[]", "schema"),
        (b"null", "schema"),
    ],
)
def test_what_cannot_be_used_gets_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_prediction(data)
    assert caught.value.reason == reason
    assert caught.value.what


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    reasons: set[str] = set()
    for decode in (decode_prediction, decode_ground_truth, decode_request, decode_heartbeat):
        try:
            decode(data)
        except DecodeError as error:
            reasons.add(error.reason)
    assert "" not in reasons


@given(
    st.builds(
        Prediction,
        prediction_id=st.text(min_size=1),
        model=st.text(),
        version=st.integers(0, 2**31),
        event_time_ms=st.integers(0, 2**41),
        features=st.dictionaries(
            st.text(), st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
        ),
        prediction=st.booleans() | st.text() | st.integers(-(2**53), 2**53),
        probability=st.none() | st.floats(0, 1),
        segment=st.none() | st.dictionaries(st.text(), st.text()),
    )
)
def test_predictions_survive_the_wire(prediction: Prediction) -> None:
    assert decode_prediction(encode(prediction)) == prediction


def test_a_null_label_is_a_withdrawal_and_a_missing_one_an_error() -> None:
    assert decode_ground_truth(encode(GroundTruth(prediction_id="a", event_time_ms=1, label=None))).label is None
    with pytest.raises(DecodeError, match="label"):
        decode_ground_truth(b'{"prediction_id": "a", "event_time_ms": 1}')


def test_only_the_header_makes_a_heartbeat() -> None:
    value = encode(Heartbeat(event_time_ms=5))
    assert decode_heartbeat(value).event_time_ms == 5
    assert is_heartbeat([("ce_type", b"Heartbeat")])
    assert not is_heartbeat([("ce_type", b"Prediction")])
    assert not is_heartbeat([])
    assert not is_heartbeat(None)


def test_output_carries_the_required_cloudevents_attributes() -> None:
    at = datetime(2013, 2, 1, tzinfo=UTC)
    headers = dict(
        cloudevent_headers(GroundTruth(prediction_id="a", event_time_ms=1, label=1), event_id="i", source="/s", at=at)
    )
    assert headers["content-type"] == b"application/json"
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"GroundTruth"
    assert headers["ce_id"] == b"i"
    assert headers["ce_source"] == b"/s"
    assert headers["ce_time"] == b"2013-02-01T00:00:00Z"


def test_times_are_utc_and_naive_ones_are_refused() -> None:
    assert iso(datetime(2013, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2013-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="naive"):
        iso(datetime(2013, 1, 1))  # noqa: DTZ001
    assert to_ms(utc(1_359_676_800_123)) == 1_359_676_800_123


def test_derived_ids_depend_on_every_part_and_on_nothing_else() -> None:
    assert derived_id("a", 1) == derived_id("a", 1)
    assert derived_id("a", 11) != derived_id("a1", 1)


@given(st.text(min_size=1).filter(lambda s: "=" not in s and "&" not in s), st.text())
def test_segment_keys_read_back(name: str, value: str) -> None:
    assert segment_of(segment_key({name: value})) == {name: value}
    assert segment_of(segment_key(None)) is None


def test_events_write_times_as_iso_and_segments_as_objects() -> None:
    at = datetime(2013, 2, 1, tzinfo=UTC)
    alert = Alert(
        incident_id="i",
        model="m",
        version=1,
        kind="quality",
        subject="roc_auc",
        segment={"origin": "JFK"},
        severity="warning",
        status="opened",
        opened_at=at,
        closed_at=None,
        title="t",
        explanation="e",
    )
    document = msgspec.json.decode(encode(alert))
    assert document["opened_at"] == "2013-02-01T00:00:00Z"
    assert document["segment"] == {"origin": "JFK"}
    assert document["closed_at"] is None


@pytest.mark.parametrize("field", ["label", "revision"])
def test_integers_of_labels_fit_into_64_bits(field: str) -> None:
    record = {"prediction_id": "a", "event_time_ms": 1, "label": 1}
    for fits in (2**63 - 1, -(2**63)):
        assert getattr(decode_ground_truth(encode(record | {field: fits})), field) == fits
    for too_long in (2**63, -(2**63) - 1, 10**30):
        with pytest.raises(DecodeError, match=f"{field} -?[0-9]+ does not fit"):
            decode_ground_truth(json.dumps(record | {field: too_long}).encode())
    assert decode_ground_truth(encode(record | {"label": 1e30})).label == 1e30
