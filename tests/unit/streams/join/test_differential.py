"""Every implementation of the join gives, batch by batch, what the simple one gives, whatever it is fed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join import rules
from streams.join import totals as t
from streams.join.batch import JoinOutcome, Slice
from streams.join.partition import JoinPartition
from tests.support import differential, nasty
from tests.support.joins import IMPLEMENTATIONS, contributions, implementation
from tests.support.zoo import LATER

NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)
SEEDS = 12
PER_TEST = 20


# The simple one beside itself can only show that it says the same twice: one batch of seeds is enough for that.
@pytest.mark.parametrize(
    ("name", "first"),
    [
        (name, first)
        for name in IMPLEMENTATIONS
        for first in range(0, PER_TEST * (1 if name == "simple" else SEEDS), PER_TEST)
    ],
)
def test_nothing_differs(name: str, first: int) -> None:
    joins = implementation(name)
    for seed in range(first, first + PER_TEST):
        differential.check(seed, JoinPartition, joins)


@pytest.mark.slow
@NAMES
@pytest.mark.parametrize("first", range(10_000, 30_000, 500))
def test_nothing_differs_thoroughly(name: str, first: int) -> None:
    joins = implementation(name)
    for seed in range(first, first + 500):
        differential.check(seed, JoinPartition, joins, records=40 + seed % 160)


# ------------------------------------------------------------------------- the comparison can see differences


class ForgetsDuplicates(JoinPartition):
    """Counts a duplicate as nothing."""

    def _totals_after(self, overlay: Any) -> dict[str, int]:
        return super()._totals_after(overlay) | {t.PREDICTIONS_DUPLICATE: 0}


class LosesACount(JoinPartition):
    """Loses the contributions of one segment value."""

    def process(self, batch: Slice, view: Any) -> JoinOutcome:
        outcome = super().process(batch, view)
        outcome.deltas = [
            msgspec.structs.replace(delta, panes=[pane for pane in delta.panes if pane.segment != "origin=JFK"])
            for delta in outcome.deltas
        ]
        return outcome


class OtherWords(JoinPartition):
    """Says something else about a label that came too late."""

    def process(self, batch: Slice, view: Any) -> JoinOutcome:
        outcome = super().process(batch, view)
        for letter in outcome.dead_letters:
            if letter.reason == rules.LATE:
                letter.message = "late"
        return outcome


class WakesTooLate(JoinPartition):
    """Lets time pass a little later than it should."""

    def _advance(self, view: Any, overlay: Any) -> None:
        watermark = overlay.watermark_ms
        overlay.watermark_ms = watermark - 1
        super()._advance(view, overlay)
        overlay.watermark_ms = watermark


class RemembersWithoutDeadlines(JoinPartition):
    """Takes a snapshot back, and forgets whom to wake."""

    @classmethod
    def from_checkpoint(cls, *args: Any) -> Any:
        self = super().from_checkpoint(*args)
        self._deadlines.take(1 << 60)
        self._deadlines.commit()
        return self


@pytest.mark.parametrize(
    "broken", [ForgetsDuplicates, LosesACount, OtherWords, WakesTooLate, RemembersWithoutDeadlines]
)
def test_a_difference_is_found_and_made_small(broken: type[JoinPartition]) -> None:
    def search() -> None:
        for seed in range(60):
            differential.check(seed, JoinPartition, broken)

    with pytest.raises(AssertionError, match="records:") as caught:
        search()
    assert str(caught.value).count("Record(topic=") <= 6


# ---------------------------------------------------------------------------------- the traffic is worth it


def test_the_traffic_reaches_every_end() -> None:
    """Each total, each reason for a dead letter and each version occurs."""
    totals: dict[str, int] = dict.fromkeys(t.NAMES, 0)
    reasons: set[tuple[str, str]] = set()
    tasks: set[tuple[str, int]] = set()
    for seed in range(120):
        run = differential.Run(JoinPartition, nasty.log(seed))
        for step in differential.schedule(seed):
            seen = run.step(step._replace(action="register" if step.action == "register" else "commit"))
            reasons |= {(letter[0], letter[7]) for letter in seen["dead letters"]}
            tasks |= {key[:2] for key in seen["deltas"]}
        for name, count in run.join.totals.items():
            totals[name] += count
    assert min(totals.values()) > 0, totals
    of_both = {"malformed-json", "schema", "empty", "future", "late", "unknown-schema-version"}
    assert reasons >= {(topic, reason) for topic in nasty.TOPICS for reason in of_both}
    assert reasons >= {
        (PREDICTIONS, rules.CONFLICT),
        (PREDICTIONS, rules.PREDICTION_TYPE),
        (GROUND_TRUTH, rules.LABEL_TYPE),
    }
    assert tasks == {(model, version) for model, version in LATER}


# -------------------------------------------------------------------------------------- one shape at a time

SHAPES: dict[str, bytes] = {
    "plain": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{"distance":1.5},'
    b'"prediction":1,"probability":0.7}',
    "other order": b'{"probability":0.7,"prediction":1,"features":{"distance":1.5},"event_time_ms":10,"version":1,'
    b'"model":"m","prediction_id":"a"}',
    "spaces": b' \n{ "prediction_id" : "a" ,\t"model":"m","version": 1 ,"event_time_ms":10,"features" : { "distance"\r'
    b': 1.5 } , "prediction":1,"probability":0.7 } \n',
    "escaped names and values": b'{"prediction\\u005fid":"\\u0061","model":"\\u006d","version":1,"event_time_ms":10,'
    b'"features":{"dist\\u0061nce":1.5,"origin":"J\\u0046K"},"prediction":1,"probability":0.7}',
    "repeated members": b'{"prediction_id":"z","prediction_id":"a","model":"m","version":9,"version":1,'
    b'"event_time_ms":10,"features":{"distance":99},"features":{"origin":"LGA","origin":"JFK"},"prediction":0,"prediction":1}',
    "a repeated member of a wrong type": b'{"prediction_id":1,"prediction_id":"a","model":"m","version":1,'
    b'"event_time_ms":10,"features":{},"prediction":1}',
    "junk in unknown members": b'{"x":[{"prediction_id":"b"},"\\"}",1e400,[[]]],"prediction_id":"a","model":"m",'
    b'"version":1,"event_time_ms":10,"features":{"y":null},"prediction":1,"":{"":""}}',
    "invalid UTF-8 in an unknown member": b'{"x":"\xff","prediction_id":"a","model":"m","version":1,"event_time_ms":10,'
    b'"features":{},"prediction":1}',
    "invalid UTF-8 in a feature": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,'
    b'"features":{"origin":"\xff"},"prediction":1}',
    "invalid UTF-8 in a feature's name": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,'
    b'"features":{"\xff":1},"prediction":1}',
    "a surrogate alone": b'{"prediction_id":"\\ud800","model":"m","version":1,"event_time_ms":10,"features":{},'
    b'"prediction":1}',
    "NaN": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{"distance":NaN},'
    b'"prediction":1}',
    "truncated": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{},"prediction":1',
    "trailing": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{},"prediction":1}x',
    "twice": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{},"prediction":1}' * 2,
    "no features": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"prediction":1}',
    "features of null": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":null,'
    b'"prediction":1}',
    "a list": b"[]",
    "nothing": b"",
    "deep": b'{"prediction_id":"a","x":' + b"[" * 5_000 + b"]" * 5_000 + b',"model":"m","version":1,"event_time_ms":10,'
    b'"features":{},"prediction":1}',
    "oversize": b'{"prediction_id":"a","model":"m","version":1,"event_time_ms":10,"features":{},"prediction":1,"x":"'
    + b"y" * 1_100_000
    + b'"}',
}
LABEL = b'{"prediction_id":"a","event_time_ms":20,"label":1}'


@NAMES
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(name: str, shape: str) -> None:
    joins = implementation(name)
    log = nasty.log_of([(PREDICTIONS, SHAPES[shape]), (GROUND_TRUTH, LABEL), (PREDICTIONS, SHAPES["plain"])])
    steps = [differential.Step((1, 1), (False, False), "rebuild"), differential.Step((1, 0), (True, True), "snapshot")]
    assert differential.difference(log, steps, JoinPartition, joins) is None


NUMBERS = (
    *(
        "0",
        "-0",
        "1",
        "-1",
        "0.0",
        "-0.0",
        "1.0",
        "1E0",
        "1e-2",
        "100",
        "100.0",
        "1E2",
        "200",
        "99.99999999999999",
        "0.7",
    ),
    *("9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616", "1" + "0" * 30),
    *("1" * 400, "1" * 5_000, "1e308", "1.7976931348623157e308", "1.7976931348623159e308", "1e309", "1e400", "-1e400"),
    *("5e-324", "2.5e-324", "2.4e-324", "1e-400", "2.2250738585072011e-308", "1e22", "1e23", "9007199254740993.0"),
    *("0." + "1" * 400, "123456789012345678901234567890.5", "0.1e1", "01", "1.", ".5", "+1", "1e", "-", "0x1", "NaN"),
    *(
        "Infinity",
        "-Infinity",
        "true",
        "false",
        "null",
        '"1"',
        '""',
        '"a"',
        '"\\u0031"',
        "[]",
        "{}",
        '{"1":0.5}',
        '{"1":2}',
    ),
)


@NAMES
@pytest.mark.parametrize("model", ['"m","version":1', '"m","version":2', '"k","version":1', '"n","version":1'])
def test_values(name: str, model: str) -> None:
    """Every odd value as a feature, as prediction, as probability, as label and as time, one record each."""
    joins = implementation(name)
    records: list[tuple[str, bytes]] = []
    for at, value in enumerate(NUMBERS):
        for place in range(6):
            given = ["150", '"JFK"', "1", "0.7", "10", "1"]
            given[place] = value
            distance, origin, predicted, probability, time, label = given
            records.append(
                (
                    PREDICTIONS,
                    f'{{"prediction_id":"{at}-{place}","model":{model},"event_time_ms":{time},"features":{{'
                    f'"distance":{distance},"origin":{origin},"tiny":{distance},"vip":{origin}}},'
                    f'"prediction":{predicted},"probability":{probability}}}'.encode(),
                )
            )
            records.append(
                (GROUND_TRUTH, f'{{"prediction_id":"{at}-{place}","event_time_ms":{time},"label":{label}}}'.encode())
            )
    log = nasty.log_of(records)
    take = (len(log[PREDICTIONS]), len(log[GROUND_TRUTH]))
    steps = [differential.Step(take, (False, False), "rebuild")]
    assert differential.difference(log, steps, JoinPartition, joins) is None


def test_contributions_are_read_from_either_form() -> None:
    run = differential.Run(JoinPartition, nasty.log_of([(PREDICTIONS, SHAPES["plain"])]))
    batch = Slice(run.log, dict.fromkeys(nasty.TOPICS, 0), {PREDICTIONS: 1, GROUND_TRUTH: 0}, {}, 0)
    outcome = run.join.process(batch, run.view)
    assert sum(n for key, n in contributions(outcome.deltas).items() if key[3] == "" and key[6] == 0) == 1
