"""What is personal in a record, as one encrypted text instead of the values. Pure.

A sealed record carries what is personal (the subject itself, features, segments) as ``features["$sealed"]``: a text
with the id of the subject's key and the values, encrypted with AES-SIV. The same values at the same place give the same
text, so that what is sent or written twice stays a duplicate. A text is bound to its place (topic, model, id): put
anywhere else it does not open.

References
----------
RFC 5297 (AES-SIV).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from agents.subjects.naming import subject_text
from schemas.events import InferenceRequest, Prediction, Scalar, Segment
from schemas.specification import Specification

SEALED = "$sealed"
SUBJECT = "$subject"
"""In what was opened: the id of the key."""
ERASED = "$erased"
"""In what cannot be opened any more: true."""
MARK = b'"$sealed"'
"""Bytes that every sealed record holds."""
ID_BYTES = 12
KEY_BYTES = 64
FORM = "1."
_VERSION = b"driftline subject 1"
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode
Place = Sequence[bytes]


class Rule(NamedTuple):
    """What of a model's records is personal: `column` says whose they are, `open` names what is not encrypted."""

    column: str
    open: frozenset[str]

    @classmethod
    def of(cls, spec: Specification) -> Rule | None:
        """The rule of a specification; None where it names no subject."""
        return None if spec.data.subject is None else cls(spec.data.subject, spec.open_names)

    def subject(self, features: Mapping[str, Any]) -> str | None:
        """Whose the features are; None where they do not say."""
        return subject_text(features.get(self.column))


class SubjectKey:
    """A subject's key at work.

    Parameters
    ----------
    id : bytes
        Twelve random bytes: what sealed texts name it by.
    secret : bytes
        Of `KEY_BYTES`.
    """

    __slots__ = ("_cipher", "id")

    def __init__(self, id: bytes, secret: bytes) -> None:
        self.id = id
        self._cipher = AESSIV(secret)

    def seal(self, values: Mapping[str, Mapping[str, Any]], place: Place) -> str:
        """Values as a text that only this key opens, at this place."""
        hidden = self._cipher.encrypt(_encode(values), [_VERSION, *place])
        return FORM + base64.urlsafe_b64encode(self.id + hidden).decode()

    def open(self, text: str, place: Place) -> dict[str, dict[str, Any]] | None:
        """The values of a text; None where it was altered or belongs to another key or place."""
        try:
            whole = base64.urlsafe_b64decode(text[len(FORM) :])
            if base64.urlsafe_b64encode(whole).decode() != text[len(FORM) :]:
                return None  # other spellings of the same bytes: bits behind the end, characters that decoding skips
            hidden = whole[ID_BYTES:]
            return _decode(self._cipher.decrypt(hidden, [_VERSION, *place]))
        except (InvalidTag, ValueError, binascii.Error, msgspec.MsgspecError):
            return None


def key_id(text: object) -> bytes | None:
    """The id of the key that a sealed text names; None where it is none."""
    if not isinstance(text, str) or not text.startswith(FORM):
        return None
    try:
        found = base64.urlsafe_b64decode(text[len(FORM) : len(FORM) + 16])
    except (ValueError, binascii.Error):
        return None
    return found if len(found) == ID_BYTES else None


def key_ids(texts: Iterable[object]) -> set[bytes]:
    """The ids of all keys that sealed texts name."""
    return {found for text in texts if (found := key_id(text)) is not None}


def named_models(data: bytes) -> set[str]:
    """Models that bytes which cannot be read seem to speak of."""
    return {name.decode(errors="replace") for name in _MODEL.findall(data)}


def place(topic: str, model: str, record_id: str) -> Place:
    """Where the values of a record are bound to."""
    return (topic.encode(), model.encode(), record_id.encode())


def sealed_request(request: InferenceRequest, rule: Rule, key: SubjectKey, topic: str) -> InferenceRequest:
    """The request with what is personal in it encrypted."""
    features, _ = _sealed(request.features, None, rule, key, place(topic, request.model, request.request_id))
    return msgspec.structs.replace(request, features=features)


def sealed_prediction(prediction: Prediction, rule: Rule, key: SubjectKey, topic: str) -> Prediction:
    """The prediction with what is personal in it encrypted; what the model says stays as it is."""
    at = place(topic, prediction.model, prediction.prediction_id)
    features, segment = _sealed(prediction.features, prediction.segment, rule, key, at)
    return msgspec.structs.replace(prediction, features=features, segment=segment)


def without_personal(request: InferenceRequest, rule: Rule) -> InferenceRequest:
    """The request without what is personal in it."""
    features = {name: value for name, value in request.features.items() if name in rule.open}
    return msgspec.structs.replace(request, features=features)


def opened_features(
    features: Mapping[str, Scalar], segment: Segment | None, key: SubjectKey, at: Place
) -> tuple[dict[str, Scalar], Segment | None] | None:
    """Features and segment as they were before they were sealed; None where the text is not of this key and place."""
    found = key.open(str(features[SEALED]), at)
    if found is None:
        return None
    plain = {name: value for name, value in features.items() if name != SEALED}
    return {**plain, **found.get("f", {})}, ({**(segment or {}), **found.get("s", {})} or None)


def _sealed(
    features: Mapping[str, Scalar], segment: Segment | None, rule: Rule, key: SubjectKey, at: Place
) -> tuple[dict[str, Scalar], Segment | None]:
    visible, hidden = _split(features, rule.open)
    values = {"f": hidden}
    known: Segment | None = None
    if segment:
        shown, personal = _split(segment, rule.open)
        known = shown or None
        if personal:
            values["s"] = personal
    return {**visible, SEALED: key.seal(values, at)}, known


def _split(values: Mapping[str, Any], visible: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    if not visible:
        return {}, dict(values)
    one: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for name, value in values.items():
        (one if name in visible else other)[name] = value
    return one, other
