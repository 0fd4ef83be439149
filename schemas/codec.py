"""Bytes to structs and back: JSON with CloudEvents attributes in headers (binary mode), bare JSON accepted.

Notes
-----
``ce_*`` headers of incoming records are optional. Where ``ce_type`` is present it is used only to tell a `Heartbeat`
from traffic; the topic says what the value is. Output always carries ``content-type`` and the required CloudEvents
attributes.

References
----------
CloudEvents 1.0, Kafka protocol binding, binary content mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

from schemas.errors import DecodeError
from schemas.events import GroundTruth, Heartbeat, InferenceRequest, Prediction, Wire
from schemas.topics import MAX_MESSAGE_BYTES

T = TypeVar("T")
Headers = list[tuple[str, bytes]]
SUPPORTED_SCHEMA_VERSION = 1
LONGEST_VERSION = 128
"""Characters of a version's name, where it is no number."""
_INTEGERS = 1 << 63

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON bytes of a struct. NaN and infinities become null (msgspec's rule), times ISO 8601."""
    return _encoder.encode(value)


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(data: bytes, kind: type[T]) -> T:
    """Decode JSON bytes into `kind` (a struct or a union of tagged structs).

    Raises
    ------
    DecodeError
        With `reason` ``empty``, ``oversize``, ``malformed-json`` or ``schema``.
    """
    if not data:
        raise DecodeError("the record has no value", reason="empty")
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"{len(data)} bytes exceed the limit of {MAX_MESSAGE_BYTES}", reason="oversize")
    try:
        return cast("T", _decoder(cast("Any", kind)).decode(data))
    except msgspec.ValidationError as error:
        raise DecodeError(str(error), reason="schema") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", reason="malformed-json") from error


def _check_version(schema_version: int) -> None:
    if schema_version != SUPPORTED_SCHEMA_VERSION:
        raise DecodeError(
            f"schema_version {schema_version} is not known (supported: {SUPPORTED_SCHEMA_VERSION})",
            reason="unknown-schema-version",
        )


def _check_time(event_time_ms: int) -> None:
    # Year 1970 to 9999: outside of it datetime cannot hold the value, and no producer means it.
    if not 0 <= event_time_ms < 253_402_300_800_000:
        raise DecodeError(f"event_time_ms {event_time_ms} is out of range", reason="schema")


def _check_integer(name: str, value: int) -> None:
    if not -_INTEGERS <= value < _INTEGERS:
        raise DecodeError(f"{name} {value} does not fit into 64 bits with sign", reason="schema")


def decode_request(data: bytes) -> InferenceRequest:
    """Decode an inference request. Raises `DecodeError`."""
    request = decode(data, InferenceRequest)
    _check_version(request.schema_version)
    _check_time(request.event_time_ms)
    if not request.request_id:
        raise DecodeError("request_id is empty", reason="schema")
    return request


def decode_prediction(data: bytes) -> Prediction:
    """Decode a prediction; probabilities must lie in 0–1. Raises `DecodeError`."""
    prediction = decode(data, Prediction)
    _check_version(prediction.schema_version)
    _check_time(prediction.event_time_ms)
    if not prediction.prediction_id:
        raise DecodeError("prediction_id is empty", reason="schema")
    if isinstance(prediction.version, str) and not 0 < len(prediction.version) <= LONGEST_VERSION:
        raise DecodeError(f"a version's name has 1 to {LONGEST_VERSION} characters", reason="schema")
    if isinstance(prediction.prediction, float) and not math.isfinite(prediction.prediction):
        raise DecodeError("prediction is not finite", reason="not-finite")
    probability = prediction.probability
    if probability is not None:
        for value in probability.values() if isinstance(probability, dict) else (probability,):
            if not 0.0 <= value <= 1.0:
                raise DecodeError(f"probability {value} is outside 0–1", reason="schema")
    return prediction


def decode_ground_truth(data: bytes) -> GroundTruth:
    """Decode a label; integers must fit into 64 bits with sign. Raises `DecodeError`."""
    truth = decode(data, GroundTruth)
    _check_version(truth.schema_version)
    _check_time(truth.event_time_ms)
    if not truth.prediction_id:
        raise DecodeError("prediction_id is empty", reason="schema")
    # JSON knows integers of any length; state and archive, which keep these two, do not.
    _check_integer("revision", truth.revision)
    if isinstance(truth.label, int):
        _check_integer("label", truth.label)
    return truth


SHADOW = ("ce_shadow", b"true")
"""Header of a prediction that answered nobody: what a former champion says during its successor's probation."""


def is_shadow(headers: Iterable[tuple[str, bytes | None]] | None) -> bool:
    """Whether the headers say that the prediction was made in shadow."""
    return headers is not None and SHADOW in headers


def is_heartbeat(headers: Iterable[tuple[str, bytes | None]] | None) -> bool:
    """Whether the headers say that the record is a `Heartbeat`."""
    return headers is not None and any(name == "ce_type" and value == b"Heartbeat" for name, value in headers)


def decode_heartbeat(data: bytes) -> Heartbeat:
    """Decode a heartbeat. Raises `DecodeError`."""
    heartbeat = decode(data, Heartbeat)
    _check_version(heartbeat.schema_version)
    _check_time(heartbeat.event_time_ms)
    return heartbeat


def cloudevent_headers(event: Wire, *, event_id: str, source: str, at: datetime | None = None) -> Headers:
    """CloudEvents attributes of an outgoing event as Kafka headers.

    Parameters
    ----------
    event : Wire
        Its class name is the type.
    event_id : str
        Derived from what the event is about; the same event sent twice carries the same id.
    source : str
        ``/driftline/<agent>``.
    at : datetime, optional
        Aware; event time rather than the wall clock.
    """
    headers: Headers = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_type", type(event).__name__.encode()),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
    ]
    if at is not None:
        headers.append(("ce_time", iso(at).encode()))
    return headers


def iso(at: datetime) -> str:
    """ISO 8601 in UTC with a trailing Z. Raises ValueError for naive datetimes."""
    if at.tzinfo is None:
        raise ValueError("naive datetime")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def utc(ms: int) -> datetime:
    """Milliseconds since the epoch to an aware datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def to_ms(at: datetime) -> int:
    """An aware datetime to milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def derived_id(*parts: object) -> str:
    """A stable id from what an event is about: 32 hexadecimal digits of SHA-256 over the parts."""
    import hashlib

    text = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def segment_key(segment: Mapping[str, str] | None) -> str:
    """``""`` for overall, else ``name=value`` (several joined by ``&`` in name order)."""
    return "" if not segment else "&".join(f"{name}={segment[name]}" for name in sorted(segment))


def segment_of(key: str) -> dict[str, str] | None:
    """Inverse of `segment_key` for single-name segments (what monitoring computes)."""
    if not key:
        return None
    name, _, value = key.partition("=")
    return {name: value}


def json_schema(kinds: Iterable[type]) -> dict[str, Any]:
    """JSON Schema (2020-12) of the structs, with all components under ``$defs``."""
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": list(schemas),
        "$defs": components,
    }
