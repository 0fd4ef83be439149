"""What others write in plain is sealed on its way into the archive, and what is sent on its way to the topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.database.migrate import upgrade
from agents.subjects.keys import SubjectKeys
from agents.subjects.master import Master
from agents.subjects.opening import opened_records
from agents.subjects.sealing import SEALED, Rule
from agents.subjects.sending import ArchiveSealer, Sealer, refused
from schemas.codec import decode_prediction, encode
from schemas.errors import DecodeError
from schemas.events import InferenceRequest, Prediction
from schemas.topics import GROUND_TRUTH, INFERENCE_REQUESTS, PREDICTIONS
from streams.kafka.records import Record
from tests.support.registries import RegistryWorld, spec_text

TEXT = spec_text("m").replace('label = "y"\n', 'label = "y"\nsubject = "who"\n')


@pytest.fixture
def world(tmp_path: Path) -> RegistryWorld:
    made = RegistryWorld(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    upgrade(made.engine)
    return made


def keys_of(world: RegistryWorld) -> SubjectKeys:
    return SubjectKeys(lambda: (world.sessions, world.readers), lambda: Master(b"m" * 32))


def record(topic: str, value: bytes | None, offset: int = 0) -> Record:
    return Record(topic, 0, offset, b"p", value, None, 1)


def made(model: str, **features: Any) -> bytes:
    told = Prediction(
        prediction_id="p",
        model=model,
        version="v1",
        event_time_ms=1,
        features=features,
        prediction=1,
        segment={"who": "x"},
    )
    return encode(told)


def test_the_archive_seals_what_others_wrote(world: RegistryWorld) -> None:
    keys = keys_of(world)
    sealer = ArchiveSealer(world.readers, keys)
    plain = made("m", who="Ann", x=1.5)
    records = [
        record(PREDICTIONS, plain, 0),
        record(PREDICTIONS, made("n", who="Ann", x=1.5), 1),
        record(PREDICTIONS, b"{", 2),
        record(PREDICTIONS, None, 3),
        record(GROUND_TRUTH, b'{"who": "Ann"}', 4),
        record(PREDICTIONS, made("m", x=1.5), 5),
    ]
    assert sealer.records(records) == records, "no model names a subject yet"
    world.model("n")
    with world.sessions.begin() as session:
        world.registry.register_model(session, TEXT, "ann")
    found = list(sealer.records(records))
    assert found[1:5] == records[1:5]
    sealed, bare = (decode_prediction(found[at].value or b"") for at in (0, 5))
    assert (set(sealed.features), sealed.segment) == ({SEALED}, None)
    assert (bare.features, bare.segment) == ({}, None)
    (opened,) = opened_records(keys, found[:1], {})
    assert opened.value == plain
    assert sealer.records(found) == found, "sealed once"


def test_what_is_sent_is_sealed(world: RegistryWorld) -> None:
    sealer = Sealer({"m": Rule("who", frozenset())}, keys_of(world))
    asked = [
        encode(InferenceRequest(request_id="r", model=model, event_time_ms=1, features=features))
        for model, features in (("m", {"who": "Ann"}), ("n", {"who": "Ann"}), ("m", {"x": 1.5}))
    ]
    hidden = sealer.value(INFERENCE_REQUESTS, asked[0])
    assert b"Ann" not in hidden
    assert sealer.value(INFERENCE_REQUESTS, hidden) == hidden
    assert sealer.value(INFERENCE_REQUESTS, asked[1]) == asked[1]
    assert b"Ann" not in sealer.value(PREDICTIONS, made("m", who="Ann"))
    assert sealer.value(GROUND_TRUTH, b"{}") == b"{}"
    with pytest.raises(DecodeError, match="do not say whose they are"):
        sealer.value(INFERENCE_REQUESTS, asked[2])


@pytest.mark.parametrize(
    ("topic", "data", "sent"),
    [
        (INFERENCE_REQUESTS, b'{"model": "n", "features": "Ann"}', True),
        (PREDICTIONS, b'{"model": "n"', True),
        (GROUND_TRUTH, b"\xff", True),
        (INFERENCE_REQUESTS, b'{"model": "m", "features": {"who": "Ann"}}', False),
        (INFERENCE_REQUESTS, b'{"model": "n", "model": "m", "features": {"who": "Ann"}', False),
        (INFERENCE_REQUESTS, b'{"model": "unknown", "features": {"who": "Ann"}', False),
        (PREDICTIONS, b"Ann, Elm Street", False),
        (PREDICTIONS, made("m", x=1.5), False),
    ],
)
def test_unchecked_bytes_are_sent_where_they_are_nobodys(
    world: RegistryWorld, topic: str, data: bytes, sent: bool
) -> None:
    sealer = Sealer({"m": Rule("who", frozenset())}, keys_of(world), {"n"})
    assert Sealer({}, keys_of(world)).unchecked(topic, data) == data
    if sent:
        assert sealer.unchecked(topic, data) == data
        return
    with pytest.raises(DecodeError, match="cannot be encrypted") as refused:
        sealer.unchecked(topic, data)
    assert "Ann" not in str(refused.value)


def test_unchecked_bytes_that_can_be_read_are_sealed(world: RegistryWorld) -> None:
    sealer = Sealer({"m": Rule("who", frozenset())}, keys_of(world), {"n"})
    plain = made("m", who="Ann")
    assert sealer.unchecked(PREDICTIONS, plain) == sealer.value(PREDICTIONS, plain) != plain


@pytest.mark.parametrize(
    ("data", "withheld"),
    [
        (b'{"model": "n", "who": "Ann"', False),
        (b'{"model": "m", "who": "Ann"', True),
        (b'{"model": "n", "x": {"model": "m", "who": "Ann"}', True),
        (b'{"model": "unknown", "who": "Ann"', True),
        (b"Ann", True),
        (made("n", who="Ann"), False),
        (made("unknown", who="Ann"), True),
    ],
)
def test_what_a_refused_prediction_passes_on(world: RegistryWorld, data: bytes, withheld: bool) -> None:
    came = record(PREDICTIONS, data)
    assert refused(came, {"m": Rule("who", frozenset())}, {"m", "n"}, keys_of(world)) == (came, withheld)


def test_a_refused_prediction_that_was_plain_is_sealed(world: RegistryWorld) -> None:
    keys, rules = keys_of(world), {"m": Rule("who", frozenset())}
    plain = record(PREDICTIONS, made("m", who="Ann", x=1.5))
    found, withheld = refused(plain, rules, {"m"}, keys)
    assert (withheld, b"Ann" in (found.value or b"")) == (False, False)
    assert refused(found, rules, {"m"}, keys) == (found, False)
    (opened,) = opened_records(keys, [found], {})
    assert opened.value == plain.value
    bare, _ = refused(record(PREDICTIONS, made("m", x=1.5)), rules, {"m"}, keys)
    assert decode_prediction(bare.value or b"").features == {}
