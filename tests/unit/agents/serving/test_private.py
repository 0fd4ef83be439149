"""Of models that name a subject serving writes nothing personal in plain: answers, dead letters, their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.serving.handler import ServingHandler
from agents.serving.logic import VersionTable
from agents.serving.model import Answer, ServedModel
from agents.serving.private import Privacy
from agents.serving.staging import Stage
from agents.subjects.keys import SubjectKeys
from agents.subjects.master import Master
from agents.subjects.opening import opened_records
from agents.subjects.sealing import SEALED, Rule, sealed_request
from schemas.codec import decode_prediction, decode_request, encode
from schemas.events import InferenceRequest, ModelState, Prediction, Scalar, VersionState
from schemas.specification import Specification, parse
from schemas.topics import INFERENCE_REQUESTS, PREDICTIONS, SERVING_EVENTS, dead_letter_topic
from streams.kafka.positions import Positions
from streams.kafka.records import Output, Record
from tests.support.models import SPECIFICATION

LETTERS = dead_letter_topic(INFERENCE_REQUESTS)
PLAIN = parse(SPECIFICATION)
PRIVATE = parse(SPECIFICATION.replace("[data]", '[data]\nsubject = "who"\n'))
NOW_MS = 1_700_000_000_000
SECRETS = (b"Ann", b"Example", b"777", b"Elm")


class Model:
    def __init__(self, spec: Specification) -> None:
        self.spec = spec

    def predict(self, rows: Sequence[Mapping[str, Scalar]]) -> list[Answer | None]:
        for row in rows:
            if row.get("x") == 13:
                raise ValueError(f"cannot take {dict(row)}")
        return [(1, 0.5) for _ in rows]


class Follower:
    def __init__(self) -> None:
        self.table = VersionTable()

    def poll(self) -> bool:
        return False

    catch_up = poll


def state_of(name: str, epoch: int, specifications: list[str]) -> ModelState:
    """A model with a version of each specification; the first is champion."""
    versions = [
        VersionState(
            version=number,
            stage="promoted" if number == 1 else "validated",
            artifact="a",
            reference="r",
            specification=sha,
            registered_epoch=number,
        )
        for number, sha in enumerate(specifications, 1)
    ]
    return ModelState(model=name, epoch=epoch, task="binary", champion=1, challenger=None, versions=versions)


class World:
    """Models `coin` with a subject, `open` without one, and `older`, whose champion's specification named none yet."""

    def __init__(self, folder: Path) -> None:
        engine = make_engine(f"sqlite:///{folder / 'r.db'}")
        upgrade(engine)
        places = (session_factory(engine), session_factory(engine, read_only=True))
        self.keys = SubjectKeys(lambda: places, lambda: Master(b"m" * 32))
        specs = {"1" * 64: PRIVATE, "2" * 64: PLAIN}
        self.privacy = Privacy(self.keys, lambda version: specs[version.specification])
        follower = Follower()
        private, plain = specs
        for name, shas in (("coin", [private]), ("open", [plain]), ("older", [plain, private])):
            follower.table.apply_state(state_of(name, 1, shas))

        def load(model: str, version: VersionState) -> ServedModel:
            return self.privacy.loaded(Model(specs[version.specification]))  # type: ignore[arg-type]

        self.handler = ServingHandler(
            follower,  # type: ignore[arg-type]
            Stage(load),
            worker="0",
            privacy=self.privacy,
        )
        self.offset = 0

    def answers(self, *values: bytes) -> list[Output]:
        """Answers and dead letters."""
        return [output for output in self.outputs(*values) if output.topic in {PREDICTIONS, LETTERS}]

    def outputs(self, *values: bytes) -> list[Output]:
        """Whatever is written."""
        records = [
            Record(INFERENCE_REQUESTS, 0, self.offset + at, b"k", value, None, NOW_MS)
            for at, value in enumerate(values)
        ]
        at = (INFERENCE_REQUESTS, 0)
        start, self.offset = self.offset, self.offset + len(values)
        outputs = self.handler.process(records, Positions({at: start}, {at: self.offset}, {at: True}), NOW_MS)
        self.handler.committed({at: self.offset})
        return outputs


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def asked(model: str = "coin", id: str = "r1", **features: Scalar) -> InferenceRequest:
    told = {"who": "Ann Example", "x": 777.25, "street": "Elm"} | features
    return InferenceRequest(request_id=id, model=model, event_time_ms=5, features=told)


def whole(output: Output) -> bytes:
    return b"|".join([output.value or b"", *(data or b"" for _, data in output.headers or ())])


def reason(output: Output) -> bytes | None:
    return dict(output.headers or ()).get("__dlq.errors.reason")


def test_answers_are_sealed_and_open_again(world: World) -> None:
    (output,) = world.answers(encode(asked()))
    assert output.topic == PREDICTIONS
    assert not any(secret in whole(output) for secret in SECRETS)
    sealed = decode_prediction(output.value or b"")
    assert (sealed.prediction, sealed.probability, set(sealed.features)) == (1, 0.5, {SEALED})
    originals: dict[int, Record] = {}
    record = Record(PREDICTIONS, 0, 9, b"r1", output.value, None, NOW_MS)
    (opened,) = opened_records(world.keys, [record], originals)
    assert decode_prediction(opened.value or b"").features == asked().features
    assert originals == {9: record}


def test_the_same_request_twice_gives_the_same_bytes(world: World) -> None:
    first, second = world.answers(encode(asked())), world.answers(encode(asked()))
    assert [output.value for output in first] == [output.value for output in second]


def test_sealed_requests_are_answered_as_plain_ones_are(world: World) -> None:
    rule = Rule.of(PRIVATE)
    assert rule is not None
    key = world.keys.of_subjects(["Ann Example"])["Ann Example"]
    sealed = sealed_request(asked(), rule, key, INFERENCE_REQUESTS)
    assert [output.value for output in world.answers(encode(sealed))] == [
        output.value for output in world.answers(encode(asked()))
    ]
    elsewhere = InferenceRequest(request_id="r2", model="coin", event_time_ms=5, features=sealed.features)
    (output,) = world.answers(encode(elsewhere))
    assert reason(output) == b"sealed"


def test_a_model_without_a_subject_is_written_as_ever(world: World) -> None:
    request = asked("open")
    (output,) = world.answers(encode(request))
    expected = Prediction(
        prediction_id="r1", model="open", version=1, event_time_ms=5, features=request.features, prediction=1,
        probability=0.5, segment=decode_prediction(output.value or b"").segment,
    )  # fmt: skip
    assert output.value == encode(expected)
    value = encode(asked("open", x="Elm"))
    (letter,) = world.answers(value)
    assert letter.value == value
    assert not world.keys.any(), "no key was made, no master key either"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (asked(x="Elm Street"), b"schema"),
        (asked(x=13), b"prediction-failed"),
        (asked(who=None), b"no-subject"),
        (InferenceRequest(**{**{f: getattr(asked(), f) for f in asked().__struct_fields__}, "version": 4}), b"unknown"),
    ],
)
def test_dead_letters_hold_nothing_in_plain(world: World, request_: InferenceRequest, why: bytes) -> None:
    (letter,) = world.answers(encode(request_))
    assert letter.topic == LETTERS
    assert (reason(letter) or b"").startswith(why)
    assert not any(secret in whole(letter) for secret in SECRETS)
    kept = decode_request(letter.value or b"")
    assert (kept.request_id, set(kept.features)) == ("r1", set() if why == b"no-subject" else {SEALED})


def test_bytes_that_cannot_be_read_may_be_somebodys(world: World) -> None:
    world.answers(encode(asked()))
    broken = b'{"request_id": "r", "model": "coin", "features": {"who": "Ann Example"'
    nobodys = b'{"request_id": "r", "features": {"who": "Ann Example"'
    opens = b'{"request_id": "r", "model": "open", "features": {"who": "Ann Example"'
    for value, kept in ((broken, False), (nobodys, False), (opens, True)):
        (letter,) = world.answers(value)
        assert (b"Ann" in whole(letter)) is kept
        assert reason(letter) == b"malformed-json"
    # One of a model that nobody knows can be read, but nobody can say what of it is personal.
    (letter,) = world.answers(encode(asked("unknown")))
    assert reason(letter) == b"unknown-model"
    assert not any(secret in whole(letter) for secret in SECRETS)


@pytest.mark.parametrize("model", ["coin", "older"])
def test_what_serving_tells_of_itself_quotes_nobody(world: World, model: str) -> None:
    """Swaps and refusals are written without the sealer; a model's error may quote its row."""
    outputs = world.outputs(*(encode(asked(model, id=f"r{n}", x=13)) for n in range(5)))
    told = [output for output in outputs if output.topic == SERVING_EVENTS]
    assert any(b"ModelRefused" in whole(output) for output in told)
    assert {output.topic for output in outputs} >= {SERVING_EVENTS, LETTERS}
    for output in outputs:
        assert not any(secret in whole(output) for secret in SECRETS), output.topic
