"""How many predictions come twice: the join drops them, but a producer that sends everything again should be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from agents.monitoring.outputs import AGAIN_MS, event_output
from schemas.codec import derived_id, utc
from schemas.events import JournalRecord, Observation, Status
from streams.join import totals as t
from streams.kafka.records import Output, Record

SUBJECT: Final = "duplicates"
ENOUGH: Final = 1000
"""Predictions of a partition that a rate is taken of."""
MOST_RATE: Final = 0.05
"""A producer that sends at least once repeats some; beyond this share it repeats by mistake."""
CALM_RATE: Final = 0.02
_SAMPLES: Final = 64


class _Named(msgspec.Struct):
    model: str
    version: int | str


NumberOf = Callable[[str, int | str], int | None]
"""(model, version as sent) → its number; None: not registered."""


class _Seen(NamedTuple):
    """Of one partition: counters of its last journal record, those where the rate began, models told, and when."""

    predictions: int
    duplicates: int
    since_predictions: int
    since_duplicates: int
    told: tuple[tuple[str, int], ...] = ()
    told_ms: int = 0


class DuplicateCheck:
    """Takes the rate of duplicates of every partition, a thousand predictions at a time.

    Notes
    -----
    The join counts duplicates by partition: models are those that most of the newest predictions belong to. What an
    aborted batch said counts as not said. A worker remembers for its own life: a new one tells again what goes on. What
    goes on is said again twice a day of event time, so that what ended while there was no worker is heard no more.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._next: dict[int, _Seen] = {}

    def observe(
        self, journal: JournalRecord, arrived: Sequence[Record], watermark_ms: int, number_of: NumberOf
    ) -> list[Output]:
        """Observations that the batch of one partition gives rise to.

        Parameters
        ----------
        journal : JournalRecord
            Of the batch.
        arrived : sequence of Record
            Its predictions.
        number_of : callable
            Versions of models that are served elsewhere have names of their own.
        """
        n, twice = journal.totals[t.PREDICTIONS], journal.totals[t.PREDICTIONS_DUPLICATE]
        seen = self._seen.get(journal.partition)
        if seen is None:
            self._next[journal.partition] = _Seen(n, twice, n, twice)
            return []
        duplicates = twice - seen.since_duplicates
        total = n - seen.since_predictions + duplicates
        if total < ENOUGH:
            self._next[journal.partition] = seen._replace(predictions=n, duplicates=twice)
            return []
        rate = duplicates / total
        told, told_ms = seen.told, seen.told_ms
        status: Status | None = None
        if rate > MOST_RATE and not told:
            told, status = _models(arrived, number_of), "opened"
        elif rate < CALM_RATE and told:
            told, status = (), "closed"
        elif told and watermark_ms >= told_ms + AGAIN_MS:
            status = "updated"
        if status is not None:
            told_ms = watermark_ms
        self._next[journal.partition] = _Seen(n, twice, n, twice, told, told_ms)
        if status is None:
            return []
        concerned = told or seen.told
        return [_said(name, _Rate(journal.partition, status, rate, total), watermark_ms) for name in concerned]

    def committed(self) -> None:
        """What was said since the last commit counts."""
        self._seen.update(self._next)
        self._next = {}

    def aborted(self) -> None:
        """What was said since the last commit does not count."""
        self._next = {}


def _models(arrived: Sequence[Record], number_of: NumberOf) -> tuple[tuple[str, int], ...]:
    """Versions of a few of the newest predictions: those that make a quarter of them, at least the first."""
    found: Counter[tuple[str, int]] = Counter()
    for record in arrived[-_SAMPLES:]:
        try:
            named = msgspec.json.decode(record.value or b"", type=_Named)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # the join has said what it thinks of it
        number = number_of(named.model, named.version)
        if number is not None:
            found[named.model, number] += 1
    ranked = sorted(found, key=lambda key: (-found[key], key))
    return tuple(key for at, key in enumerate(ranked) if at == 0 or found[key] * 4 >= found.total())


class _Rate(NamedTuple):
    partition: int
    status: Status
    value: float
    n: int


def _said(of: tuple[str, int], rate: _Rate, watermark_ms: int) -> Output:
    model, version = of
    at = utc(max(watermark_ms, 0))
    event_id = derived_id(SUBJECT, model, version, rate.partition, rate.status, watermark_ms)
    observation = Observation(
        observation_id=event_id,
        model=model,
        version=version,
        kind="data-quality",
        subject=SUBJECT,
        segment=None,
        status=rate.status,
        severity="info" if rate.status == "closed" else "warning",
        window=f"partition {rate.partition}",
        window_start=at,
        window_end=at,
        value=round(rate.value, 6),
        reference=0.0,
        threshold=MOST_RATE,
        n=rate.n,
        observed_at=at,
        evidence={"statistic": SUBJECT, "partition": rate.partition},
    )
    return event_output(observation)
