"""A producer that sends everything again is told, once, and told when it stopped."""

from __future__ import annotations

import msgspec

from agents.monitoring.duplicates import CALM_RATE, ENOUGH, MOST_RATE, DuplicateCheck
from schemas.codec import decode, encode
from schemas.events import JournalRecord, Observation
from schemas.topics import OBSERVATIONS, PREDICTIONS
from streams.join import totals as t
from streams.kafka.records import Output, Record
from tests.support.plans import prediction

DAY = 86_400_000


def journal(predictions: int, duplicates: int, partition: int = 3) -> JournalRecord:
    counted = t.zero() | {t.PREDICTIONS: predictions, t.PREDICTIONS_DUPLICATE: duplicates}
    return JournalRecord(
        partition=partition, slices={}, watermark_ms=0, topic_watermarks_ms={}, idle={}, now_ms=0, registry_epoch=0,
        low_water={}, journal_low_water=0, totals=counted, partitions=12,
    )  # fmt: skip


def arrived(*models: str) -> list[Record]:
    values = [encode(msgspec.structs.replace(prediction(), model=model)) for model in models]
    return [Record(PREDICTIONS, 3, at, b"k", value, None, 0) for at, value in enumerate(values)]


def number_of(model: str, version: int | str) -> int | None:
    """`w` is served elsewhere, where its versions have names; what else is sent is not registered."""
    return {"w": {"2024-05": 7}, "m": {1: 1}, "a": {1: 1}, "b": {1: 1}, "c": {1: 1}}.get(model, {}).get(version)


def step(check: DuplicateCheck, predictions: int, duplicates: int, *models: str, at_ms: int = DAY) -> list[Observation]:
    out: list[Output] = check.observe(journal(predictions, duplicates), arrived(*(models or ("m",))), at_ms, number_of)
    check.committed()
    assert {output.topic for output in out} <= {OBSERVATIONS}
    return [decode(output.value or b"", Observation) for output in out]


def test_a_few_repeats_are_usual_and_many_are_told_once_and_ended() -> None:
    check = DuplicateCheck()
    assert step(check, 50_000, 40_000) == []  # what was before is no news
    assert step(check, 50_000 + ENOUGH, 40_000 + 40) == []
    (opened,) = step(check, 50_000 + 2 * ENOUGH, 40_040 + 200)
    assert (opened.kind, opened.subject, opened.status, opened.severity) == (
        "data-quality", "duplicates", "opened", "warning",
    )  # fmt: skip
    assert opened.value is not None
    assert opened.value > MOST_RATE
    assert (opened.n, opened.evidence["partition"]) == (ENOUGH + 200, 3)
    assert step(check, 50_000 + 3 * ENOUGH, 40_240 + 300) == []
    (closed,) = step(check, 50_000 + 5 * ENOUGH, 40_540)
    assert (closed.status, closed.model, closed.window) == ("closed", "m", opened.window)
    assert closed.value is not None
    assert closed.value < CALM_RATE


def test_between_the_two_rates_all_stays_as_it_is() -> None:
    """A rate about the one that opens, or about the one that closes, does not flap."""
    check = DuplicateCheck()
    step(check, 0, 0)
    said = []
    twice = 0
    for at, repeated in enumerate([40, 30, 200, 40, 60, 30, 40, 200, 30, 10, 30, 40], start=1):
        twice += repeated
        said += [(at, o.status) for o in step(check, at * ENOUGH, twice)]
    assert said == [(3, "opened"), (10, "closed")]


def test_what_goes_on_is_said_twice_a_day_of_event_time() -> None:
    check = DuplicateCheck()
    step(check, 0, 0)
    told = [o for at in range(1, 31) for o in step(check, at * ENOUGH, at * 100, at_ms=DAY + (at - 1) * DAY // 24)]
    assert [(o.status, o.severity) for o in told] == [
        ("opened", "warning"),
        ("updated", "warning"),
        ("updated", "warning"),
    ]
    assert [o.observed_at.hour for o in told] == [0, 12, 0]
    assert len({o.observation_id for o in told}) == 3


def test_a_rate_is_taken_of_enough_predictions() -> None:
    check = DuplicateCheck()
    step(check, 0, 0)
    assert [step(check, 0, n) for n in range(100, ENOUGH, 100)] == [[]] * 9
    assert len(step(check, 0, ENOUGH)) == 1


def test_what_an_aborted_batch_said_is_said_again() -> None:
    check = DuplicateCheck()
    step(check, 0, 0)
    first = check.observe(journal(ENOUGH, 500), arrived("m"), DAY, number_of)
    check.aborted()
    assert check.observe(journal(ENOUGH, 500), arrived("m"), DAY, number_of) == first
    assert len(first) == 1


def test_the_models_named_are_those_that_send_most() -> None:
    check = DuplicateCheck()
    step(check, 0, 0)
    found = step(check, ENOUGH, ENOUGH, *["a"] * 10, *["b"] * 10, "c")
    assert [o.model for o in found] == ["a", "b"]
    broken = DuplicateCheck()
    step(broken, 0, 0)
    assert broken.observe(journal(0, ENOUGH), [Record(PREDICTIONS, 3, 0, b"k", b"\xff", None, 0)], DAY, number_of) == []


def test_a_version_that_has_a_name_is_told_by_its_number() -> None:
    check = DuplicateCheck()
    step(check, 0, 0)
    sent = [encode(msgspec.structs.replace(prediction(), model=model, version="2024-05")) for model in ("w", "x")]
    records = [Record(PREDICTIONS, 3, at, b"k", value, None, 0) for at, value in enumerate(sent)]
    (output,) = check.observe(journal(ENOUGH, 500), records, DAY, number_of)
    found = decode(output.value or b"", Observation)
    assert (found.model, found.version, found.status) == ("w", 7, "opened")
