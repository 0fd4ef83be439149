"""Traffic that no well-meaning producer would send: records in every shape that JSON, Kafka and people allow.

Everything is drawn from one `random.Random`, so that a log is its seed. Most records are good and meet each other: ids
are few, times lie around the edges of what a plan allows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.records import Record
from tests.support.joins import HEARTBEAT, NOW_MS

TOPICS = (PREDICTIONS, GROUND_TRUTH)
LONG = "x" * 3_000


class Raw(str):
    """JSON text as it stands."""

    __slots__ = ()


IDS: tuple[str, ...] = (
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "id-7",
    "\u00e9",
    "\u65e5\u672c",
    "\U0001f600",
    'q"\\/',
    "\u0000",
    LONG,
    "17",
)
MODELS: tuple[tuple[str, Any], ...] = (
    *((("m", 1),) * 6),
    *((("m", 2),) * 3),
    *((("k", 1),) * 2),
    *((("n", 1),) * 2),
    ("m\u00e9\U0001f600", 1),
    ("m", 3),
    ("x", 1),
    ("nobody", 1),
    ("m", 9),
    ("", 1),
)
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 100, 200, 150, 99.999, 200.5, -1.5, -10, 400, 401, 3, 1e-9, 1e-300, 5e-324, 1e308, -1e308),
    *(2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, -(10**400)),
    *map(Raw, ("-0", "-0.0", "0.0", "1E2", "1e+2", "1e-2", "1e-400", "0.1e1", "100.0", "1" * 5_000, "0." + "1" * 400)),
    *map(
        Raw, ("123456789012345678901234567890.5", "0.30000000000000004", "9007199254740993.0", "1.7976931348623157e308")
    ),
    *map(Raw, ("2.2250738585072011e-308", "0.1", "1e22", "1e23", "8.5e-323", "99.99999999999999")),
)
BAD_NUMBERS = tuple(
    map(
        Raw,
        ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "nan", "01", "1.", ".5", "+1", "0x1", "1e", "--1", "1_0"),
    )
)
STRINGS: tuple[Any, ...] = (
    *(
        "",
        "JFK",
        "LGA",
        "1",
        "0",
        "true",
        "nan",
        "None",
        "é\u4e2d",
        "\U0001f600",
        "a=b",
        "&",
        "\u2028",
        "\t\r\n",
        "y" * 200,
    ),
    *map(
        Raw,
        ('"\\u004aFK"', '"J\\u0046K"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\/"', '"\\ud800"', '"\\ud800x"', '"\\x"'),
    ),
    *map(Raw, ('"\\udc00"', '"\\u12"', '"a\nb"', '"\\u00e9\\u4e2d"', '"unclosed', "'JFK'")),
)
JUNK: tuple[Any, ...] = (
    *({}, [], {"a": {"b": [1, {"c": None}]}}, [[[]]], [1, "x", None, True], {"": ""}, "junk", None, True, 1.5),
    *map(
        Raw,
        (
            "[1e400]",
            '{"a":1e400}',
            '{"prediction_id":"b"}',
            '"\\ud800"',
            "[1,]",
            "{,}",
            "[" * 50 + "]" * 50,
            '{"a":01}',
        ),
    ),
    *map(Raw, ('"}"', '"\\"}"', '[{"]":"}"}]', "[" * 2_000 + "]" * 2_000, "tru", "nul", "[NaN]", '{"a" 1}', "[1 2]")),
)
PROBABILITIES: tuple[Any, ...] = (
    *(0.7, 0.5, 0, 1, 0.001, 0.25, 0.9999999, 1e-300, 1.0000000001, -0.1, 2, None, "0.5", True, [], {}),
    *(
        {"1": 0.7, "0": 0.3},
        {"yes": 0.2, "no": 0.8},
        {"a": 0.5, "b": 0.5},
        {"zzz": 1},
        {"1": 1.5},
        {"1": None},
        {"1": "x"},
    ),
    *({"a": 1, "b": 0.0, "1": 0, "true": 0}, {"": 0.5}, {"a": 0.1}, {"x": 0.1, "1": -0.0}),
    *map(Raw, ("-0.0", "1.0", "0e0", "1e-400", "5e-1", '{"1":0.1,"1":0.9}', '{"1":2,"1":0.9}', '{"\\u0031":0.4}')),
    *map(Raw, ("0.9933071490757153", "0.5312093733737563", "0.49999999999999994", "4.94e-321", "0.06666666666666667")),
)
PREDICTED: tuple[Any, ...] = (
    *((0, 1) * 4),
    *(True, False, "1", "0", "yes", "no", "a", "b", "zzz", "", 0.7, 1.0, 0.5, 0.3, 2, -1, 120, 1e308, 2**64, 10**400),
    *(None, [], {}),
    *map(Raw, ("-0", "1e0", "-0.0", "1E2", '"\\u0031"', "0.9", "1" * 5_000)),
)
TRUTHS: tuple[Any, ...] = (
    *((0, 1) * 5),
    *(
        True,
        False,
        "1",
        "0",
        "yes",
        "no",
        "a",
        "b",
        "zzz",
        "",
        0.0,
        1.0,
        0.5,
        2,
        120,
        1e308,
        2**53 + 1,
        None,
        None,
        None,
    ),
    *(2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30, 10**400, [], {}),
    *map(
        Raw, ("-0", "1e0", "-0.0", "1E2", '"\\u0031"', "1e-400", "9007199254740993", "9007199254740992.0", "1" * 5_000)
    ),
)
CLASSES: dict[str, tuple[Any, ...]] = {"k": ("a", "b", 1, True, "true", "zzz"), "x": (0, 1, 2, "2", 3)}
"""What multiclass models of the zoo know, and one class that they do not."""
REVISIONS: tuple[Any, ...] = (0, 0, 0, 1, 1, 2, -1, 2**62, -(2**62), 1 - 2**62, 2**63 - 1, 2**63, 2**70, -(2**70))
BAD_SCALARS: tuple[Any, ...] = (
    "1",
    None,
    True,
    [],
    {},
    1.5,
    *map(Raw, ("1.0", "1e0", "-0", "tru", "", "1e400", "1" * 5_000)),
)
TIMES: tuple[Any, ...] = (-1, 253_402_300_799_999, 253_402_300_800_000, 2**63 - 1, 2**63, 2**64, 10**30)
SEGMENTS: tuple[Any, ...] = (
    *(
        None,
        {},
        {"origin": "LGA"},
        {"origin": ""},
        {"vip": "yes", "origin": "nan"},
        {"other": "x"},
        {"origin": "é" * 200},
    ),
    *({"origin": None}, {"origin": 1}, [], "JFK", {"origin": "a=b&c"}, Raw('{"origin":"LGA","origin":"JFK"}')),
)


def text(rng: Random, value: Any, depth: int = 0) -> str:
    """JSON of a value, as ugly as it may be: spaces, escapes, any order of keys."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, str):
        return _string(rng, value)
    if isinstance(value, dict):
        return members(rng, list(value.items()), depth)
    if isinstance(value, list):
        return "[" + ",".join(_space(rng) + text(rng, item, depth + 1) + _space(rng) for item in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return ("-" if value < 0 else "") + "1" + "0" * 400
    return json.dumps(value)


def members(rng: Random, items: Sequence[tuple[str, Any]], depth: int = 0) -> str:
    """An object of these members, in this order, repeated ones included."""
    parts = [
        f"{_space(rng)}{_string(rng, name)}{_space(rng)}:{_space(rng)}{text(rng, value, depth + 1)}{_space(rng)}"
        for name, value in items
    ]
    return "{" + ",".join(parts) + "}"


def _space(rng: Random) -> str:
    return rng.choice((" ", "\n", "\t", "\r\n  ")) if rng.random() < 0.02 else ""


def _string(rng: Random, value: str) -> str:
    if rng.random() < 0.9:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return json.dumps(value) if not value else '"' + "".join(_character(rng, c) for c in value) + '"'


def _character(rng: Random, character: str) -> str:
    if ord(character) > 0xFFFF or rng.random() < 0.5:
        return json.dumps(character)[1:-1]
    escape = f"\\u{ord(character):04x}"
    return escape if rng.random() < 0.5 else "\\u" + escape[2:].upper()


class Nastiness(NamedTuple):
    """How often a record is of each kind, 0 to 1."""

    odd_field: float = 0.1
    layout: float = 0.3
    broken: float = 0.06
    headers: float = 0.1
    heartbeat: float = 0.04
    future: float = 0.01
    disorder_ms: int = 200
    step_ms: float = 12.0
    early: float = 0.1
    """Of labels: whose prediction is still to come."""


class Producer:
    """Sends records to the log of one partition; event time goes on with every record.

    Parameters
    ----------
    rng : Random
    how : Nastiness
    """

    def __init__(self, rng: Random, how: Nastiness) -> None:
        self.rng = rng
        self.how = how
        self.now = rng.choice((0.0, 30.0, 500.0))
        self.log: dict[str, list[Record]] = {topic: [] for topic in TOPICS}
        self.born: dict[str, int] = {}
        self.early: dict[str, int] = {}

    def send(self) -> None:
        """One more record to one of the topics."""
        rng, how = self.rng, self.how
        self.now += rng.expovariate(1.0) * how.step_ms
        topic = rng.choice(TOPICS)
        draw = rng.random()
        if draw < how.heartbeat:
            self._heartbeat(topic)
        elif draw < how.heartbeat + how.broken:
            self._broken(topic)
        else:
            repeat = self.log[topic] and rng.random() < 0.12
            if repeat:
                record = rng.choice(self.log[topic])
                self._put(topic, record.value, record.key)
            elif topic == PREDICTIONS:
                self._put(topic, *self.prediction())
            else:
                self._put(topic, *self.truth())

    # ---------------------------------------------------------------------------------------------- records

    def prediction(self) -> tuple[bytes | None, bytes | None]:
        """Value and key of a prediction."""
        rng = self.rng
        awaited = self.early and rng.random() < 0.7
        key = rng.choice(list(self.early)) if awaited else self._id()
        at = max(0, round(self.now) - self._disorder())
        if awaited:
            at = max(0, self.early.pop(key) - rng.choice((-20, 0, 0, 1, 10, 40, 90, 100, 101, 150, 299, 300, 500)))
        if rng.random() < 0.5:
            at = self.born.setdefault(key, at)
        self.born[key] = at
        model, version = rng.choice(MODELS)
        features: dict[str, Any] = {
            "distance": rng.choice((150.0, 99, 200, rng.uniform(-50, 500))),
            "origin": rng.choice(("JFK", "LGA", "EWR", None)),
            "constant": 3,
            "tiny": rng.choice((1e-9, 0, 3e-9)),
            "vip": rng.random() < 0.5,
        }
        for name in list(features):
            if self._odd():
                features[name] = rng.choice((*NUMBERS, *STRINGS, *BAD_NUMBERS[:3], True, None, None, [], {"a": 1}))
            elif self._odd():
                del features[name]
        named = list(features.items())
        if self._odd():
            named.append((rng.choice(("distance", "origin", "\u00e9")), rng.choice((*NUMBERS, *STRINGS))))
        if self._odd():
            rng.shuffle(named)
        fields: list[tuple[str, Any]] = [
            ("prediction_id", key),
            ("model", model),
            ("version", version),
            ("event_time_ms", at),
            ("features", Raw(members(rng, named, 1))),
            ("prediction", rng.choice(PREDICTED) if self._odd() else self._of_task(model)),
            ("probability", rng.choice(PROBABILITIES) if self._odd() else self._probability(model)),
        ]
        if self._odd():
            fields.append(("segment", rng.choice(SEGMENTS)))
        odd = {"event_time_ms": TIMES, "features": JUNK, "model": BAD_SCALARS, "version": (2**63, 2**64, 0, -1)}
        return self._value(fields, odd, required=5), self._key(key)

    def truth(self) -> tuple[bytes | None, bytes | None]:
        """Value and key of a label."""
        rng = self.rng
        early = rng.random() < self.how.early
        if early:
            key = f"early-{rng.randrange(10**6)}"
            self.early[key] = round(self.now)
        else:
            key = rng.choice(list(self.born)) if self.born and rng.random() < 0.85 else self._id()
        if rng.random() < 0.08:
            return None, rng.choice((key.encode(), key.encode(), key.encode(), b"", None, b"\xff\xfe"))
        at = self.born.get(key, round(self.now))
        if early:
            self.early[key] = at
        elif rng.random() < 0.6:
            at += rng.choice((-201, -200, -60, 0, 0, 1, 10, 20, 99, 100, 101, 150, 200, 250, 299, 300, 301, 302, 400))
        else:
            at = round(self.now) - self._disorder()
        fields: list[tuple[str, Any]] = [
            ("prediction_id", key),
            ("event_time_ms", max(0, at)),
            ("label", rng.choice(TRUTHS) if self._odd() else self._of_task(rng.choice(("m", "m", "k", "n")))),
        ]
        if rng.random() < 0.3:
            fields.append(("revision", rng.choice(REVISIONS) if self._odd() else rng.choice((0, 1, 2))))
        odd = {"event_time_ms": TIMES, "label": (*STRINGS, *NUMBERS, *BAD_NUMBERS), "revision": BAD_SCALARS}
        return self._value(fields, odd, required=3), self._key(key)

    def _heartbeat(self, topic: str) -> None:
        rng = self.rng
        at: Any = max(0, round(self.now) - rng.choice((0, 0, 20, 100)))
        if self._odd():
            at = rng.choice((*TIMES, *BAD_SCALARS, NOW_MS + 10_000))
        value = members(rng, [("event_time_ms", at)]).encode()
        if self._odd():
            value = rng.choice((b"", b"{}", b"{", b"\xff", b"[]", value + b"x", self.prediction()[0]))
        headers: Any = [("content-type", b"application/json"), *HEARTBEAT] if rng.random() < 0.3 else HEARTBEAT
        self._put(topic, value, None, headers)

    def _broken(self, topic: str) -> None:
        rng = self.rng
        value, key = self.prediction() if topic == PREDICTIONS else self.truth()
        value = value or b"{}"
        cut = rng.randrange(len(value))
        kinds: tuple[Callable[[], bytes | None], ...] = (
            lambda: None,
            lambda: b"",
            lambda: value[:cut],
            lambda: value[cut:],
            lambda: value + rng.choice((b" ", b"\n\n", b"x", b"{}", b"\x00", b"}", b",", b"\xff")),
            lambda: rng.choice((b" ", b"\n\t ", b"\xef\xbb\xbf", b"\x00", b"[", b"\xff\xfe")) + value,
            lambda: value[:cut] + bytes([rng.randrange(256)]) + value[cut + 1 :],
            lambda: (
                value[:cut]
                + rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"\xf4\x90\x80\x80"))
                + value[cut:]
            ),
            lambda: b"[" + value + b"]",
            lambda: rng.choice(
                (b"null", b"1", b"[]", b"{}", b'""', b"true", b"[" * 3_000, b'{"a":' * 3_000, b" ", b"\x00")
            ),
            lambda: value.decode("utf-8", "replace").encode("utf-16"),
            lambda: value[:cut] + value,
        )
        self._put(topic, rng.choice(kinds)(), key)

    # ---------------------------------------------------------------------------------------------- details

    def _odd(self) -> bool:
        return self.rng.random() < self.how.odd_field

    def _disorder(self) -> int:
        rng = self.rng
        return rng.randrange(self.how.disorder_ms + 1) if rng.random() < 0.5 else 0

    def _of_task(self, model: str) -> Any:
        rng = self.rng
        if model == "n":
            return rng.choice((0, 1, 120, 99.5, -3, rng.uniform(-50, 500)))
        return rng.choice(CLASSES.get(model, (0, 0, 1, 1, 1.0, True)))

    def _probability(self, model: str) -> Any:
        rng = self.rng
        if model not in CLASSES or rng.random() < 0.2:
            return rng.random()
        names = [str(name) for name in CLASSES[model] if rng.random() < 0.9]
        return {name: rng.choice((rng.random(), rng.random(), 0, 1, 0.25)) for name in names}

    def _id(self) -> str:
        rng = self.rng
        return f"n{rng.randrange(10**6)}" if rng.random() < 0.3 else rng.choice(IDS)

    def _value(self, fields: list[tuple[str, Any]], odd: Mapping[str, Sequence[Any]], required: int) -> bytes:
        rng = self.rng
        if rng.random() < 0.05:
            fields.append(("schema_version", rng.choice((1, 1, 1, 2, 0, *BAD_SCALARS))))
        if self._odd() and self._odd():
            at = rng.randrange(len(fields))
            name = fields[at][0]
            fields[at] = (name, rng.choice((*odd.get(name, ()), *BAD_SCALARS, *STRINGS)))
        if self._odd() and self._odd():
            del fields[rng.randrange(required)]
        if self._odd():
            fields.insert(
                rng.randrange(len(fields) + 1), (rng.choice(("trace", "", "\u00e9", "Model")), rng.choice(JUNK))
            )
        if self._odd() and self._odd():
            name, value = rng.choice(fields)
            fields.insert(rng.randrange(len(fields) + 1), (name, rng.choice((value, *BAD_SCALARS, 0))))
        plain = rng.random() >= self.how.layout
        if not plain and rng.random() < 0.5:
            rng.shuffle(fields)
        if plain and rng.random() < 0.8:
            body = ",".join(f'"{name}":{_plain(value)}' for name, value in fields)
            return ("{" + body + "}").encode("utf-8", "surrogatepass")
        return members(rng, fields).encode("utf-8", "surrogatepass")

    def _key(self, key: str) -> bytes | None:
        return key.encode() if self.rng.random() > 0.05 else self.rng.choice((None, b"", b"other", b"\xff"))

    def _put(self, topic: str, value: bytes | None, key: bytes | None, headers: Any = None) -> None:
        rng, how = self.rng, self.how
        if headers is None and rng.random() < how.headers:
            headers = rng.choice(
                (
                    [],
                    [("trace", None)],
                    [("ce_type", b"Prediction"), ("ce_id", b"1"), ("content-type", b"application/json")],
                    [("ce_type", None)],
                    [("ce_type", b"heartbeat")],
                    [("CE_TYPE", b"Heartbeat"), ("x", b"\xff")],
                )
            )
        at = NOW_MS
        if rng.random() < how.future:
            at = rng.choice((0, -1, 1, max(1, round(self.now) - rng.choice((50, 999, 1_000, 1_001, 2_000)))))
        records = self.log[topic]
        records.append(Record(topic, 0, len(records), key, value, headers, at))


def _plain(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return ("-" if value < 0 else "") + "1" + "0" * 400
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def log(seed: int, records: int = 80, how: Nastiness | None = None) -> dict[str, list[Record]]:
    """A log of both topics of partition 0."""
    rng = Random(seed)
    if how is None:
        how = rng.choice(
            (
                Nastiness(),
                Nastiness(odd_field=0.02, broken=0.02, disorder_ms=20, step_ms=6.0),
                Nastiness(odd_field=0.3, layout=0.8, broken=0.15, headers=0.3),
                Nastiness(odd_field=0.0, layout=0.0, broken=0.0, headers=0.0, future=0.0, disorder_ms=40, step_ms=3.0),
                Nastiness(heartbeat=0.15, step_ms=40.0),
                Nastiness(odd_field=0.01, layout=0.0, broken=0.0, headers=0.3, disorder_ms=20, step_ms=3.0, early=0.6),
            )
        )
    producer = Producer(rng, how)
    for _ in range(records):
        producer.send()
    return producer.log


def log_of(values: Sequence[tuple[str, bytes | None]]) -> dict[str, list[Record]]:
    """A log of plain records: (topic, value)."""
    records: dict[str, list[Record]] = {topic: [] for topic in TOPICS}
    for topic, value in values:
        records[topic].append(Record(topic, 0, len(records[topic]), b"a", value, None, NOW_MS))
    return records
