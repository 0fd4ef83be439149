"""What is personal is encrypted under its subject's key, comes back the same, and opens nowhere else."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.subjects.naming import subject_text
from agents.subjects.sealing import (
    ID_BYTES,
    KEY_BYTES,
    MARK,
    SEALED,
    Rule,
    SubjectKey,
    key_id,
    key_ids,
    opened_features,
    place,
    sealed_prediction,
    sealed_request,
    without_personal,
)
from schemas.codec import decode_prediction, decode_request, encode
from schemas.errors import SpecificationError
from schemas.events import InferenceRequest, Prediction
from schemas.specification import parse
from tests.support.registries import spec_text

EVERYTHING = Rule("who", frozenset())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
NAMES = st.text(min_size=1).filter(lambda name: not name.startswith("$"))


def a_key() -> SubjectKey:
    return SubjectKey(os.urandom(ID_BYTES), os.urandom(KEY_BYTES))


KEY = a_key()


def a_prediction(**more: Any) -> Prediction:
    told: dict[str, Any] = {
        "prediction_id": "p1",
        "model": "m",
        "version": 1,
        "event_time_ms": 7,
        "features": {"who": "Ann Example", "income": 51234.25, "region": "north"},
        "prediction": 1,
        "probability": 0.25,
        "segment": {"region": "north"},
    }
    return Prediction(**told | more)


@settings(max_examples=60)
@given(st.dictionaries(NAMES, SCALARS), st.dictionaries(NAMES, st.text()), st.frozensets(NAMES), st.text(), st.text())
def test_what_was_sealed_comes_back(
    features: dict[str, Any], segment: dict[str, str], visible: frozenset[str], model: str, prediction_id: str
) -> None:
    made = a_prediction(features=features, segment=segment or None, model=model, prediction_id=prediction_id)
    hidden = sealed_prediction(made, Rule("who", visible), KEY, "predictions")
    assert hidden == sealed_prediction(made, Rule("who", visible), KEY, "predictions"), "a repeat is a duplicate"
    read = msgspec.json.decode(encode(hidden), type=Prediction)
    assert MARK in encode(hidden)
    assert set(read.features) <= visible | {SEALED}
    assert set(read.segment or {}) <= visible
    opened = opened_features(read.features, read.segment, KEY, place("predictions", model, prediction_id))
    assert opened == (made.features, made.segment)


def test_the_answer_and_what_is_not_personal_stay_readable() -> None:
    hidden = sealed_prediction(a_prediction(), Rule("who", frozenset({"region"})), KEY, "predictions")
    data = encode(hidden)
    assert decode_prediction(data).features["region"] == "north"
    assert (hidden.segment, hidden.prediction, hidden.probability) == ({"region": "north"}, 1, 0.25)
    assert not any(text in data for text in (b"Ann", b"51234", b"who", b"income"))
    assert key_id(hidden.features[SEALED]) == KEY.id


@pytest.mark.parametrize(
    ("key", "at"),
    [
        (a_key(), place("predictions", "m", "p1")),
        (KEY, place("predictions", "m", "p2")),
        (KEY, place("predictions", "n", "p1")),
        (KEY, place("inference-requests", "m", "p1")),
        (KEY, place("predictions", "mp", "1")),
    ],
)
def test_it_opens_with_its_key_at_its_place_only(key: SubjectKey, at: Any) -> None:
    hidden = sealed_prediction(a_prediction(), EVERYTHING, KEY, "predictions")
    assert opened_features(hidden.features, hidden.segment, key, at) is None


def test_an_altered_text_does_not_open() -> None:
    at = place("predictions", "m", "p1")
    for length in range(3):  # base64 ends in three ways, two of them with bits that no byte holds
        text = KEY.seal({"features": {"north": "x" * length}}, at)
        assert KEY.open(text, at) is not None
        for place_of_change in range(18, len(text)):
            for other in "AB-_=":
                altered = text[:place_of_change] + other + text[place_of_change + 1 :]
                assert altered == text or KEY.open(altered, at) is None
        assert KEY.open(text[:30], at) is None
        assert KEY.open(text[:40] + "!" + text[40:], at) is None


@pytest.mark.parametrize("text", [None, 7, "", "1.", "2." + "A" * 40, "1.****************", "1.AAAA", "north"])
def test_what_is_no_sealed_text_names_no_key(text: object) -> None:
    assert key_id(text) is None
    assert key_ids([text]) == set()


def test_requests_are_sealed_too_or_stripped_where_nobody_is_named() -> None:
    request = InferenceRequest(request_id="r", model="m", event_time_ms=1, features={"who": 7, "x": 2.5, "y": "open"})
    rule = Rule("who", frozenset({"y"}))
    hidden = decode_request(encode(sealed_request(request, rule, KEY, "inference-requests")))
    assert set(hidden.features) == {"y", SEALED}
    opened = opened_features(hidden.features, None, KEY, place("inference-requests", "m", "r"))
    assert opened is not None
    assert opened[0] == request.features
    assert without_personal(request, rule).features == {"y": "open"}


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), (5.0, "5"), ("5", "5"), (2**60 + 1, str(2**60 + 1)), (None, None), ("", None)]
)
def test_subjects_are_told_apart_as_texts(value: object, text: str | None) -> None:
    assert subject_text(value) == text


SUBJECT = 'label = "y"\nsubject = "who"\nsegments = ["region"]\n'


@pytest.mark.parametrize(
    ("more", "visible"),
    [
        ("", set()),
        ('personal = ["x"]', {"region"}),
        ('personal = ["region"]', {"x"}),
        ("personal = []", {"x", "region"}),
    ],
)
def test_the_specification_says_what_is_personal(more: str, visible: set[str]) -> None:
    rule = Rule.of(parse(spec_text().replace('label = "y"\n', SUBJECT + more + "\n")))
    assert rule == Rule("who", frozenset(visible))


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ('subject = "id"', "data.subject"),
        ('subject = "t"', "data.subject"),
        ('subject = "y"', "data.subject"),
        ('subject = ""', "data.subject"),
        ('subject = "$who"', "data.subject"),
        ('personal = ["x"]', "data.personal"),
        ('subject = "who"\npersonal = ["nothing"]', "data.personal"),
    ],
)
def test_a_specification_that_names_no_good_subject_is_refused(lines: str, where: str) -> None:
    with pytest.raises(SpecificationError) as refused:
        parse(spec_text().replace('label = "y"\n', f'label = "y"\n{lines}\n'))
    assert where in refused.value.where


def test_a_specification_without_a_subject_has_no_rule() -> None:
    assert Rule.of(parse(spec_text())) is None
