"""A stretch of history as producers would have sent it, day by day, with a seeded disturbance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from schemas.codec import encode
from schemas.events import GroundTruth, InferenceRequest, Scalar
from schemas.specification import Specification
from schemas.topics import DAY_MS, GROUND_TRUTH, INFERENCE_REQUESTS, MAX_MESSAGE_BYTES

OVERSIZE_RECORDS = 3


class Event(NamedTuple):
    """One record to send. `time_ms` is the event time at which its producer would have sent it."""

    time_ms: int
    topic: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Rates:
    """Shares of flights that the disturbance touches; `malformed` is a share of all requests, sent in addition."""

    malformed: float = 0.001
    duplicate: float = 0.002
    corrected: float = 0.002
    late: float = 0.001


@dataclass
class Disturbance:
    """What was done to the stream, by kind, so that the summary can name it."""

    counts: Counter[str] = field(default_factory=Counter)


class Traffic:
    """Requests and labels of a replayed table, in the order of event time.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns of the specification's ``[data]`` and ``[features]`` sections, times aware, sorted by event time.
    spec : Specification
    rates : Rates, optional
        None: a clean replay.
    seed : int
        Seed of the disturbance.

    Notes
    -----
    Labels are sent when event time reaches the column `label_time`. Rows without a label never get one. Malformed
    records are additional, under ids of their own; duplicates repeat a record right after the first; a corrected label
    is sent wrong at first and right a day later with a higher revision; a late label is sent a day after
    `max_label_delay`.
    """

    def __init__(self, frame: pd.DataFrame, spec: Specification, rates: Rates | None, seed: int) -> None:
        self.spec = spec
        self.disturbance = Disturbance()
        data = spec.data
        self.ids: list[str] = [str(i) for i in frame[data.id].tolist()]
        self.times = (
            frame[data.event_time].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ms]").astype(int)
        )
        self._columns = spec.columns()
        self._features = [_plain(frame[name].tolist()) for name in self._columns]
        labels = frame[data.label].tolist()
        known = frame[data.label_time] if data.label_time is not None else frame[data.event_time]
        label_times = known.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ms]")
        self.labels: list[int | float | str | None] = [None if pd.isna(v) else _integral(v) for v in labels]
        self._label_events = self._label_schedule(label_times, rates, np.random.default_rng(seed))
        self._malformed = self._malformed_schedule(rates, np.random.default_rng(seed + 1))
        rng = np.random.default_rng(seed + 2)
        share = rates.duplicate if rates else 0.0
        self._repeat_request = set(np.flatnonzero(rng.random(len(self.ids)) < share).tolist())
        self.disturbance.counts["duplicate requests"] = len(self._repeat_request)

    def __len__(self) -> int:
        return len(self.ids)

    def _label_schedule(
        self, label_times: np.ndarray, rates: Rates | None, rng: np.random.Generator
    ) -> list[tuple[int, int, Event]]:
        """(time, sequence, event) of every label record, sorted."""
        rates = rates or Rates(0, 0, 0, 0)
        counts = self.disturbance.counts
        draws = rng.random((len(self.ids), 3))
        late_after = self.spec.max_label_delay_ms + DAY_MS
        events: list[tuple[int, int, Event]] = []

        def add(time_ms: int, index: int, label: int | float | str, revision: int) -> None:
            truth = GroundTruth(prediction_id=self.ids[index], event_time_ms=time_ms, label=label, revision=revision)
            key = self.ids[index].encode()
            events.append((time_ms, len(events), Event(time_ms, GROUND_TRUTH, key, encode(truth))))

        for index, label in enumerate(self.labels):
            if label is None:
                continue
            at = int(label_times[index].astype(int))
            if draws[index, 0] < rates.late:
                add(int(self.times[index]) + late_after, index, label, 0)
                counts["late labels"] += 1
                continue
            if draws[index, 1] < rates.corrected and label in (0, 1):
                add(at, index, 1 - int(label), 0)
                add(at + DAY_MS, index, label, 1)
                counts["corrected labels"] += 1
                continue
            add(at, index, label, 0)
            if draws[index, 2] < rates.duplicate:
                add(at, index, label, 0)
                counts["duplicate labels"] += 1
        events.sort(key=lambda item: item[:2])
        return events

    def _malformed_schedule(self, rates: Rates | None, rng: np.random.Generator) -> list[Event]:
        """Broken records spread over the stretch, sorted by time."""
        total = round(len(self.ids) * rates.malformed) if rates and len(self.ids) else 0
        if not total:
            return []
        times = np.sort(rng.integers(int(self.times[0]), int(self.times[-1]) + 1, total))
        events = []
        for number, time_ms in enumerate(times.tolist()):
            topic = GROUND_TRUTH if number % 3 == 2 else INFERENCE_REQUESTS
            kind, value = _broken(number, self.spec.name, time_ms, total)
            key = f"malformed-{number:06d}".encode()
            events.append(Event(time_ms, topic, key, value))
            self.disturbance.counts[f"malformed: {kind}"] += 1
        return events

    def request(self, index: int) -> Event:
        """The inference request of row `index`."""
        features: dict[str, Scalar] = {
            name: column[index] for name, column in zip(self._columns, self._features, strict=True)
        }
        time_ms = int(self.times[index])
        value = InferenceRequest(
            request_id=self.ids[index], model=self.spec.name, event_time_ms=time_ms, features=features
        )
        return Event(time_ms, INFERENCE_REQUESTS, self.ids[index].encode(), encode(value))

    def days(self) -> Iterator[tuple[int, list[Event]]]:
        """(midnight that ends the day, events of the day in event time), until the last label has been sent."""
        if not self.ids:
            return
        row = label = broken = 0
        end = (int(self.times[0]) // DAY_MS + 1) * DAY_MS
        while row < len(self.ids) or label < len(self._label_events) or broken < len(self._malformed):
            events: list[Event] = []
            while row < len(self.ids) and self.times[row] < end:
                events.append(self.request(row))
                if row in self._repeat_request:
                    events.append(events[-1])
                row += 1
            while label < len(self._label_events) and self._label_events[label][0] < end:
                events.append(self._label_events[label][2])
                label += 1
            while broken < len(self._malformed) and self._malformed[broken].time_ms < end:
                events.append(self._malformed[broken])
                broken += 1
            events.sort(key=lambda event: event.time_ms)  # stable: repeats stay behind their originals
            yield end, events
            end += DAY_MS


def _plain(values: list[object]) -> list[Scalar]:
    """Column values as JSON scalars: NaN and NaT become null."""
    return [None if pd.isna(v) else v for v in values]  # type: ignore[call-overload, misc]


def _integral(value: object) -> int | float | str:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value  # type: ignore[return-value]


def _broken(number: int, model: str, time_ms: int, total: int) -> tuple[str, bytes]:
    """One malformed record; the kinds take turns."""
    if number % max(1, total // OVERSIZE_RECORDS) == 1:
        return "oversize", b'{"request_id": "' + b"x" * MAX_MESSAGE_BYTES + b'"}'
    kinds: list[tuple[str, str]] = [
        ("truncated", f'{{"request_id": "t{number}", "model": "{model}", "event_ti'),
        ("missing field", f'{{"model": "{model}", "event_time_ms": {time_ms}}}'),
        ("wrong type", f'{{"request_id": "w{number}", "model": 7, "event_time_ms": "noon", "prediction_id": 1}}'),
        ("NaN", f'{{"request_id": "n{number}", "model": "{model}", "event_time_ms": NaN, "features": {{}}}}'),
        ("not UTF-8", ""),
    ]
    kind, text = kinds[number % len(kinds)]
    return kind, text.encode() if text else b"\xff\xfe\x00broken"
