"""Records to columns: what a file of each archived topic holds. Pure.

Every file of a topic has the same schema, whatever models it holds: what differs between models (features, labels,
metrics) is JSON text. A record that cannot be decoded keeps its bytes (`raw`, `key`) and says why (`problem`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from schemas import codec, topics
from schemas.errors import DecodeError
from schemas.events import Alert, DriftMetric, QualityMetric
from streams.kafka.records import Record

ARCHIVED = (
    topics.PREDICTIONS,
    topics.GROUND_TRUTH,
    topics.QUALITY_METRICS,
    topics.DRIFT_METRICS,
    topics.ALERTS,
)
"""Topics that are archived."""

_TIME = pa.timestamp("us", tz="UTC")
_SOURCE = (("partition", pa.int32()), ("offset", pa.int64()), ("timestamp_ms", pa.int64()))
_RAW = (("problem", pa.string()), ("key", pa.binary()), ("raw", pa.binary()))
_WINDOW = (
    ("model", pa.string()),
    ("version", pa.int32()),
    ("segment", pa.string()),
    ("window", pa.string()),
    ("window_start", _TIME),
    ("window_end", _TIME),
    ("state", pa.string()),
    ("revision", pa.int32()),
    ("n", pa.int64()),
)

SCHEMAS: Mapping[str, pa.Schema] = {
    topics.PREDICTIONS: pa.schema(
        [
            *_SOURCE,
            ("prediction_id", pa.string()),
            ("model", pa.string()),
            ("version", pa.int32()),
            ("event_time_ms", pa.int64()),
            ("prediction", pa.string()),
            ("probability", pa.string()),
            ("segment", pa.string()),
            ("features", pa.string()),
            *_RAW,
            ("external_version", pa.string()),
            ("shadow", pa.bool_()),
        ]
    ),
    topics.GROUND_TRUTH: pa.schema(
        [
            *_SOURCE,
            ("prediction_id", pa.string()),
            ("event_time_ms", pa.int64()),
            ("revision", pa.int64()),
            ("label", pa.string()),
            ("withdrawn", pa.bool_()),
            *_RAW,
        ]
    ),
    topics.QUALITY_METRICS: pa.schema(
        [
            *_SOURCE,
            *_WINDOW,
            ("coverage", pa.float64()),
            ("metrics", pa.string()),
            ("estimated", pa.bool_()),
            ("estimate", pa.string()),
            *_RAW,
        ]
    ),
    topics.DRIFT_METRICS: pa.schema([*_SOURCE, *_WINDOW, ("subject", pa.string()), ("statistics", pa.string()), *_RAW]),
    topics.ALERTS: pa.schema(
        [
            *_SOURCE,
            ("incident_id", pa.string()),
            ("model", pa.string()),
            ("version", pa.int32()),
            ("kind", pa.string()),
            ("subject", pa.string()),
            ("segment", pa.string()),
            ("severity", pa.string()),
            ("status", pa.string()),
            ("opened_at", _TIME),
            ("closed_at", _TIME),
            ("title", pa.string()),
            ("explanation", pa.string()),
            ("evidence", pa.string()),
            *_RAW,
        ]
    ),
}
"""Schema of the files of each topic. Prediction, label, features … are JSON text; a segment of metrics is its key.

`external_version` is a version's name where it is no number; `shadow`: it answered nobody, a former champion said it
during a probation. Files of older releases lack these columns.
"""

Row = dict[str, Any]


@dataclass
class Rows:
    """What is gathered of one topic partition for its next file. `first`, `last`: offsets of the rows."""

    topic: str
    partition: int
    rows: list[Row] = field(default_factory=list)
    problems: int = 0
    timeless: int = 0
    size_bytes: int = 0

    def add(self, records: Iterable[Record]) -> None:
        """Append records in offset order; heartbeats carry no data and are left out."""
        decode = _DECODERS[self.topic]
        for record in records:
            if codec.is_heartbeat(record.headers):
                continue
            try:
                row = decode(record)
            except DecodeError as error:
                row = {"problem": f"{error.reason}: {error.what}"[:1000], "key": record.key, "raw": record.value}
                self.problems += 1
            row["partition"], row["offset"], row["timestamp_ms"] = record.partition, record.offset, record.timestamp_ms
            self.timeless += "event_time_ms" in row and row["event_time_ms"] is None
            self.rows.append(row)
            self.size_bytes += 200 + len(record.value or b"")

    @property
    def first(self) -> int:
        return int(self.rows[0]["offset"])

    @property
    def last(self) -> int:
        return int(self.rows[-1]["offset"])

    def times(self) -> tuple[int | None, int | None]:
        """Least and greatest event time, in milliseconds: of metrics the ends of windows, of alerts their openings."""
        known = [time for row in self.rows if (time := _event_time_ms(row)) is not None]
        return (min(known), max(known)) if known else (None, None)

    def table(self) -> pa.Table:
        """The rows as columns of the topic's schema."""
        schema = SCHEMAS[self.topic]
        fields = zip(schema.names, schema.types, strict=True)
        columns = [pa.array([row.get(name) for row in self.rows], type) for name, type in fields]
        return pa.Table.from_arrays(columns, schema=schema)


def _event_time_ms(row: Row) -> int | None:
    at = row.get("window_end") or row.get("opened_at")
    time: int | None = row.get("event_time_ms") if at is None else codec.to_ms(at)
    return time


def tabulate(topic: str, records: Sequence[Record]) -> pa.Table:
    """One table of `records` (of one topic)."""
    rows = Rows(topic, 0)
    rows.add(records)
    return rows.table()


def _json(value: object) -> str:
    return codec.encode(value).decode()


def _int(name: str, value: int, bits: int) -> int:
    """Whole numbers in JSON have no limit, columns have."""
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise DecodeError(f"{name} {value} does not fit into {bits} bits", reason="schema")
    return value


def _value(record: Record) -> bytes:
    return record.value if record.value is not None else b""


def _prediction(record: Record) -> Row:
    event = codec.decode_prediction(_value(record))
    return {
        "prediction_id": event.prediction_id,
        "model": event.model,
        "version": None if isinstance(event.version, str) else _int("version", event.version, 32),
        "external_version": event.version if isinstance(event.version, str) else None,
        "event_time_ms": event.event_time_ms,
        "prediction": _json(event.prediction),
        "probability": None if event.probability is None else _json(event.probability),
        "segment": None if event.segment is None else _json(event.segment),
        "features": _json(event.features),
        "shadow": codec.is_shadow(record.headers),
    }


def _ground_truth(record: Record) -> Row:
    if record.value is None and record.key:
        try:
            prediction_id = record.key.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("the key of a tombstone is not UTF-8", reason="schema") from error
        return {"prediction_id": prediction_id, "event_time_ms": None, "revision": None, "withdrawn": True}
    event = codec.decode_ground_truth(_value(record))
    return {
        "prediction_id": event.prediction_id,
        "event_time_ms": event.event_time_ms,
        "revision": _int("revision", event.revision, 64),
        "label": None if event.label is None else _json(event.label),
        "withdrawn": event.label is None,
    }


def _window(event: QualityMetric | DriftMetric) -> Row:
    return {
        "model": event.model,
        "version": _int("version", event.version, 32),
        "segment": codec.segment_key(event.segment),
        "window": event.window,
        "window_start": event.window_start,
        "window_end": event.window_end,
        "state": event.state,
        "revision": _int("revision", event.revision, 32),
        "n": _int("n", event.n, 64),
    }


def _quality(record: Record) -> Row:
    event = codec.decode(_value(record), QualityMetric)
    return {
        **_window(event),
        "coverage": event.coverage,
        "metrics": _json(event.metrics),
        "estimated": event.estimated,
        "estimate": None if event.estimate is msgspec.UNSET else _json(event.estimate),
    }


def _drift(record: Record) -> Row:
    event = codec.decode(_value(record), DriftMetric)
    return {**_window(event), "subject": event.subject, "statistics": _json(event.statistics)}


def _alert(record: Record) -> Row:
    event = codec.decode(_value(record), Alert)
    return {
        "incident_id": event.incident_id,
        "model": event.model,
        "version": _int("version", event.version, 32),
        "kind": event.kind,
        "subject": event.subject,
        "segment": codec.segment_key(event.segment),
        "severity": event.severity,
        "status": event.status,
        "opened_at": event.opened_at,
        "closed_at": event.closed_at,
        "title": event.title,
        "explanation": event.explanation,
        "evidence": _json(event.evidence),
    }


_DECODERS: Mapping[str, Callable[[Record], Row]] = {
    topics.PREDICTIONS: _prediction,
    topics.GROUND_TRUTH: _ground_truth,
    topics.QUALITY_METRICS: _quality,
    topics.DRIFT_METRICS: _drift,
    topics.ALERTS: _alert,
}
