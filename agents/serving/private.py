"""People's data on its way through serving: opened in memory, never written but under its subject's key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agents.serving.logic import VersionTable
from agents.serving.model import ServedModel
from agents.subjects.keys import SubjectKeys
from agents.subjects.sealing import (
    SEALED,
    Rule,
    SubjectKey,
    key_id,
    key_ids,
    named_models,
    opened_features,
    place,
    sealed_prediction,
    sealed_request,
    without_personal,
)
from schemas.codec import encode
from schemas.events import InferenceRequest, Prediction, VersionState
from schemas.specification import Specification
from schemas.topics import INFERENCE_REQUESTS, PREDICTIONS
from streams.kafka.records import Output, Record, dead_letter

GROUP = "serving"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the record it came in; of a model that names a subject with its rule and key."""

    record: Record
    request: InferenceRequest
    rule: Rule | None = None
    key: SubjectKey | None = None

    @property
    def private(self) -> bool:
        return self.rule is not None

    def letter(self, reason: str, message: str, *, withheld: bool = False) -> Output:
        """The dead letter of the request, as private as it came or more; of no model that is known also `withheld`."""
        if self.rule is None:
            return dead_letter(self.record, reason, message, GROUP, withheld=withheld)
        if self.key is None:
            hidden = without_personal(self.request, self.rule)
        else:
            hidden = sealed_request(self.request, self.rule, self.key, INFERENCE_REQUESTS)
        return dead_letter(self.record._replace(value=encode(hidden)), reason, message, GROUP)

    def hidden(self, prediction: Prediction) -> Prediction:
        """The answer as it is written."""
        if self.rule is None or self.key is None:
            return prediction
        return sealed_prediction(prediction, self.rule, self.key, PREDICTIONS)


class Privacy:
    """Knows which models name a subject, and has the keys.

    Parameters
    ----------
    keys : SubjectKeys
    specification : callable
        Brings the specification of a version.

    Notes
    -----
    The specification of a model's newest version says what is personal, whichever version answers. A model whose
    specification names no subject costs one look into a dictionary a batch.
    """

    def __init__(self, keys: SubjectKeys, specification: Callable[[VersionState], Specification]) -> None:
        self._keys = keys
        self._specification = specification
        self._rules: dict[str, tuple[int, Rule | None]] = {}
        self._by_text: dict[str, Rule | None] = {}
        self._seen = False

    def loaded(self, served: ServedModel) -> ServedModel:
        """A version was loaded: remember that there are models with subjects."""
        self._seen = self._seen or served.spec.data.subject is not None
        return served

    def rule(self, table: VersionTable, model: str) -> Rule | None:
        """What of a model's requests is personal; None: it names no subject, or is not known."""
        count = table.count(model)
        known = self._rules.get(model)
        if known is None or known[0] != count:
            newest = table.newest(model)
            known = self._rules[model] = (count, None if newest is None else self._of(newest))
        return known[1]

    def _of(self, version: VersionState) -> Rule | None:
        text = version.specification
        if text not in self._by_text:
            self._by_text[text] = Rule.of(self._specification(version))
        rule = self._by_text[text]
        self._seen = self._seen or rule is not None
        return rule

    def withheld(self, table: VersionTable, record: Record) -> bool:
        """Whether bytes that cannot be read may be somebody's: then their digest is all that is passed on."""
        known = {name for name in named_models(record.value or b"") if name in table}
        if any(self.rule(table, name) is not None for name in known):
            return True
        return self._seen and not known

    def opened(self, table: VersionTable, asked: Sequence[Asked], outputs: list[Output]) -> list[Asked]:
        """The requests as the model is to see them; what cannot be opened or says no subject becomes a dead letter.

        Raises
        ------
        DatabaseUnavailableError
            A key has to be made or found, and the database does not answer.
        """
        rules = {model: rule for model in {one.request.model for one in asked} if (rule := self.rule(table, model))}
        if not rules:
            return list(asked)
        private = [one.request for one in asked if one.request.model in rules]
        by_name = self._keys.of_subjects(
            name
            for request in private
            if SEALED not in request.features and (name := rules[request.model].subject(request.features))
        )
        ids = key_ids(request.features.get(SEALED) for request in private)
        by_id = self._keys.of_ids(ids) if ids else {}
        kept = []
        for one in asked:
            rule = rules.get(one.request.model)
            found = one if rule is None else _opened(one, rule, by_name, by_id)
            if isinstance(found, Asked):
                kept.append(found)
            else:
                outputs.append(found)
        return kept


def _opened(
    one: Asked, rule: Rule, by_name: Mapping[str, SubjectKey], by_id: Mapping[bytes, SubjectKey | None]
) -> Asked | Output:
    request = one.request
    sealed = request.features.get(SEALED)
    if sealed is None:
        name = rule.subject(request.features)
        if name is None:
            bare = Asked(one.record, request, rule)
            return bare.letter("no-subject", f"features do not say whose they are: no {rule.column!r}")
        return Asked(one.record, request, rule, by_name[name])
    id = key_id(sealed)
    key = None if id is None else by_id.get(id)
    if key is None:
        return dead_letter(one.record, "erased", "the key of its subject is gone: it was erased", GROUP)
    at = place(INFERENCE_REQUESTS, request.model, request.request_id)
    features = opened_features(request.features, None, key, at)
    if features is None:
        return dead_letter(one.record, "sealed", "was altered, or sealed for another model or request", GROUP)
    return Asked(one.record, _with(request, features[0]), rule, key)


def _with(request: InferenceRequest, features: dict[str, float | int | str | bool | None]) -> InferenceRequest:
    return InferenceRequest(
        request_id=request.request_id,
        model=request.model,
        event_time_ms=request.event_time_ms,
        features=features,
        version=request.version,
        schema_version=request.schema_version,
    )
