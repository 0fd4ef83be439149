"""What is about to be sent, sealed where its model names a subject: no plain value reaches a topic."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.database.migrate import migrated
from agents.registry.tables import LedgerRow, ModelRow, SpecificationRow
from agents.subjects.keys import SubjectKeys
from agents.subjects.sealing import MARK, SEALED, Rule, named_models, sealed_prediction, sealed_request
from schemas.codec import decode_prediction, decode_request, encode, is_heartbeat
from schemas.errors import DecodeError
from schemas.events import InferenceRequest, Prediction
from schemas.specification import parse
from schemas.topics import INFERENCE_REQUESTS, PREDICTIONS
from streams.kafka.records import Record

NO_SUBJECT: Final = "no-subject"


class Sealer:
    """Seals requests and predictions before they are sent.

    Parameters
    ----------
    rules : dict of str to Rule
        By model.
    keys : SubjectKeys
    others : collection of str
        Models that are registered and name no subject.
    """

    def __init__(self, rules: dict[str, Rule], keys: SubjectKeys, others: Collection[str] = ()) -> None:
        self._rules = rules
        self._keys = keys
        self._others = others

    @classmethod
    def of(cls, settings: Settings) -> Sealer:
        """By the models that are registered now.

        Raises
        ------
        DatabaseUnavailableError
        """
        rules, others = _registered(settings)
        return cls(rules, SubjectKeys.of(settings), others)

    def value(self, topic: str, data: bytes) -> bytes:
        """A record's bytes as they are to be sent; unchanged where its model names no subject.

        Raises
        ------
        DecodeError
            The record is of such a model and cannot be read, or does not say whose it is.
        DatabaseUnavailableError
        """
        if not self._rules:
            return data
        if topic == INFERENCE_REQUESTS:
            request = decode_request(data)
            return encode(self.request(request)) if request.model in self._rules else data
        if topic == PREDICTIONS:
            prediction = decode_prediction(data)
            return encode(self.prediction(prediction)) if prediction.model in self._rules else data
        return data

    def unchecked(self, topic: str, data: bytes) -> bytes:
        """As `value`, of bytes that may be anything: what cannot be read and is nobody's is sent as it is.

        Raises
        ------
        DecodeError
            They cannot be read, and may be of a model that names a subject: nobody could erase them.
        DatabaseUnavailableError
        """
        try:
            return self.value(topic, data)
        except DecodeError as error:
            named = named_models(data)
            if error.reason != NO_SUBJECT and named and all(name in self._others for name in named):
                return data
            raise DecodeError(
                f"cannot be encrypted before it is sent ({error.what}), and may be a person's",
                reason=error.reason,
                where=error.where,
                remedy="name a model without a subject in it, or try bad input where no model names one",
            ) from error

    def request(self, request: InferenceRequest) -> InferenceRequest:
        """As `value`, of a request."""
        rule = self._rules.get(request.model)
        if rule is None or SEALED in request.features:
            return request
        name = self._subject(rule, request)
        return sealed_request(request, rule, self._keys.of_subjects([name])[name], INFERENCE_REQUESTS)

    def prediction(self, prediction: Prediction) -> Prediction:
        """As `value`, of a prediction."""
        rule = self._rules.get(prediction.model)
        if rule is None or SEALED in prediction.features:
            return prediction
        name = self._subject(rule, prediction)
        return sealed_prediction(prediction, rule, self._keys.of_subjects([name])[name], PREDICTIONS)

    def _subject(self, rule: Rule, record: InferenceRequest | Prediction) -> str:
        name = rule.subject(record.features)
        if name is None:
            raise DecodeError(
                f"features do not say whose they are: no {rule.column!r}",
                reason=NO_SUBJECT,
                where=f"model {record.model}",
                remedy="add that member to features",
            )
        return name


class ArchiveSealer:
    """Seals predictions that others wrote in plain, before they are archived.

    Parameters
    ----------
    sessions : Sessions
        Read-only ones.
    keys : SubjectKeys

    Notes
    -----
    Whether a model came is asked with every batch that holds predictions: one row is read, and the specifications only
    where the registry has changed since. Bytes that cannot be read stay as they are.
    """

    def __init__(self, sessions: Sessions, keys: SubjectKeys) -> None:
        self._sessions = sessions
        self._keys = keys
        self._epoch: int | None = -1
        self._rules: dict[str, Rule] = {}

    def records(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records as they are to be archived. Raises `DatabaseUnavailableError`."""
        if not any(record.topic == PREDICTIONS for record in records):
            return records
        with self._sessions() as session:
            epoch = session.scalar(select(LedgerRow.epoch))
            if epoch != self._epoch:
                self._rules, self._epoch = rules_of(session), epoch
        return [self._one(record) for record in records] if self._rules else records

    def _one(self, record: Record) -> Record:
        value = record.value
        if record.topic != PREDICTIONS or value is None or MARK in value or is_heartbeat(record.headers):
            return record
        try:
            prediction = decode_prediction(value)
        except DecodeError:
            return record
        rule = self._rules.get(prediction.model)
        if rule is None:
            return record
        return record._replace(value=encode(hidden(prediction, rule, self._keys)))


def hidden(prediction: Prediction, rule: Rule, keys: SubjectKeys) -> Prediction:
    """A prediction sealed; without what is personal in it where it does not say whose it is.

    Raises
    ------
    DatabaseUnavailableError
    """
    name = rule.subject(prediction.features)
    if name is not None:
        return sealed_prediction(prediction, rule, keys.of_subjects([name])[name], PREDICTIONS)
    visible = {name: value for name, value in prediction.features.items() if name in rule.open}
    segment = {name: value for name, value in (prediction.segment or {}).items() if name in rule.open}
    return msgspec.structs.replace(prediction, features=visible, segment=segment or None)


def refused(
    record: Record, rules: Mapping[str, Rule], models: Container[str], keys: SubjectKeys
) -> tuple[Record, bool]:
    """A prediction that cannot be used, as it may be passed on, and whether its bytes have to be withheld.

    Parameters
    ----------
    rules : mapping of str to Rule
        Of the models that name a subject.
    models : container of str
        All that are registered.

    Raises
    ------
    DatabaseUnavailableError
    """
    if record.value is None:
        return record, False
    try:
        prediction = decode_prediction(record.value)
    except DecodeError:
        named = named_models(record.value)
        return record, not named or any(name not in models or name in rules for name in named)
    rule = rules.get(prediction.model)
    if rule is None:
        return record, prediction.model not in models
    if SEALED in prediction.features:
        return record, False
    return record._replace(value=encode(hidden(prediction, rule, keys))), False


def rules_of(session: Session) -> dict[str, Rule]:
    """The rules of all models that name a subject."""
    named = (
        select(ModelRow.name, SpecificationRow.text)
        .join(SpecificationRow, ModelRow.specification == SpecificationRow.sha)
        .where(SpecificationRow.text.like("%subject%"))
    )
    found = {name: Rule.of(parse(text)) for name, text in session.execute(named)}
    return {name: rule for name, rule in found.items() if rule is not None}


def _registered(settings: Settings) -> tuple[dict[str, Rule], frozenset[str]]:
    """Models that name a subject, and where there are any, the others."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return {}, frozenset()
    engine = migrated(settings.database)
    with session_factory(engine, read_only=True)() as session:
        rules = rules_of(session)
        names = session.scalars(select(ModelRow.name)) if rules else ()
        others = frozenset(name for name in names if name not in rules)
    engine.dispose()
    return rules, others
