"""What serving decides: which version answers, which to stage, and how a request becomes a prediction.

Pure: no Kafka, clock or model library; records and registry states come in, decisions go out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.events import (
    InferenceRequest,
    Label,
    ModelPromoted,
    ModelRolledBack,
    ModelState,
    Prediction,
    Probability,
    ProbationEnded,
    RegistryEvent,
    Scalar,
    VersionState,
)
from schemas.specification import FeatureKind, Specification
from streams.panes import class_key

STAGED = frozenset({"validated", "approval-requested", "approved", "promoted"})
"""Stages of versions that are kept loaded, so that promotion is a switch."""
UNPROVEN = frozenset({"registered", "rejected"})
"""Stages of versions that answer nobody: they did not pass validation."""


@dataclass
class _Model:
    epoch: int
    champion: int | None
    versions: dict[int, VersionState] = field(default_factory=dict)
    shadow: int | None = None


class VersionTable:
    """The registry as serving sees it: per model the champion, as of the newest epoch.

    Notes
    -----
    Epochs are monotonic: a state or event older than what is known never moves a champion (a replayed promotion must
    not bring an old version back). Versions are immutable, so those are taken from any state.
    """

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def __contains__(self, model: str) -> bool:
        return model in self._models

    def models(self) -> list[str]:
        return sorted(self._models)

    def apply_state(self, state: ModelState) -> bool:
        """Take in a model's state; whether anything changed."""
        if state.monitored:
            return False  # served elsewhere: there is no artifact to load
        known = self._models.get(state.model)
        versions = {version.version: version for version in state.versions}
        if known is None:
            self._models[state.model] = _Model(state.epoch, state.champion, versions, state.shadow)
            return True
        if state.epoch < known.epoch:
            missing = {number: version for number, version in versions.items() if number not in known.versions}
            known.versions.update(missing)
            return bool(missing)
        now = (state.champion, state.shadow, {**known.versions, **versions})
        changed = (known.champion, known.shadow, known.versions) != now
        known.epoch, known.champion, known.shadow = state.epoch, state.champion, state.shadow
        known.versions.update(versions)
        return changed

    def apply_event(self, event: RegistryEvent) -> bool:
        """Take in an event; only promotions, roll-backs and ends of probations of known versions change anything."""
        known = self._models.get(event.model)
        if known is None or not isinstance(event, ModelPromoted | ModelRolledBack | ProbationEnded):
            return False
        if event.epoch <= known.epoch or event.version not in known.versions:
            return False
        shadow = event.previous if isinstance(event, ModelPromoted) and event.probation else None
        changed = (known.champion, known.shadow) != (event.version, shadow)
        known.epoch, known.champion, known.shadow = event.epoch, event.version, shadow
        return changed

    def forget(self, model: str) -> None:
        """The model was removed from the registry."""
        self._models.pop(model, None)

    def champion(self, model: str) -> int | None:
        known = self._models.get(model)
        return known.champion if known else None

    def shadow(self, model: str) -> VersionState | None:
        """The version that answers in shadow beside the champion, for a probation."""
        known = self._models.get(model)
        if known is None or known.shadow is None or known.shadow == known.champion:
            return None
        return known.versions.get(known.shadow)

    def epoch(self, model: str) -> int:
        known = self._models.get(model)
        return known.epoch if known else 0

    def version(self, model: str, version: int) -> VersionState | None:
        known = self._models.get(model)
        return known.versions.get(version) if known else None

    def count(self, model: str) -> int:
        """How many versions of a model are known."""
        known = self._models.get(model)
        return len(known.versions) if known else 0

    def newest(self, model: str) -> VersionState | None:
        """The version with the highest number."""
        known = self._models.get(model)
        return known.versions[max(known.versions)] if known and known.versions else None

    def to_stage(self) -> list[tuple[str, VersionState]]:
        """Champions first, then candidates that passed validation and are newer than their champion.

        What is withheld is not loaded: nobody has agreed to what its file may hold.
        """
        champions, candidates = [], []
        for name in sorted(self._models):
            known = self._models[name]
            for version in sorted(known.versions.values(), key=lambda v: v.version):
                if version.version == known.champion:
                    champions.append((name, version))
                elif version.stage not in STAGED or version.withheld is True:
                    continue
                elif version.version > (known.champion or 0):
                    candidates.append((name, version))
        return champions + candidates

    def fallbacks(self, model: str) -> list[VersionState]:
        """Former champions, the latest first: what may answer when the champion cannot be loaded at start."""
        known = self._models.get(model)
        if known is None:
            return []
        former = [v for v in known.versions.values() if v.stage in ("superseded", "promoted", "rolled-back")]
        return sorted((v for v in former if v.version != known.champion), key=lambda v: v.version, reverse=True)


def refusal(
    request: InferenceRequest, features: Mapping[str, FeatureKind], *, private: bool = False
) -> tuple[str, str] | None:
    """Why a request cannot be answered: (reason, message); None when it can.

    A feature that is missing or null is a missing value; one of the wrong type is a producer's error. Of `private`
    values nothing is quoted.
    """
    for name, kind in features.items():
        value = request.features.get(name)
        if value is None or kind == "categorical":
            continue
        if isinstance(value, str):
            quoted = "" if private else f" {value[:40]!r}"
            return "schema", f"feature {name!r} is {kind}, the request holds the text{quoted}"
        if not math.isfinite(value):
            return "not-finite", f"feature {name!r} is not finite"
    return None


def category(value: Scalar) -> str | None:
    """A categorical value as the text it is counted under; NaN is missing."""
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else class_key(value)


def segment(features: Mapping[str, Scalar], names: Iterable[str]) -> dict[str, str] | None:
    """The segments a request belongs to; None when the model has none or all are missing."""
    found = {name: key for name in names if (key := category(features.get(name)))}
    return found or None


def prediction(
    request: InferenceRequest,
    spec: Specification,
    version: int,
    answer: tuple[Label, Probability | None],
) -> Prediction:
    """The prediction that answers a request: its id and event time are the request's."""
    label, probability = answer
    return Prediction(
        prediction_id=request.request_id,
        model=request.model,
        version=version,
        event_time_ms=request.event_time_ms,
        features=request.features,
        prediction=label,
        probability=probability,
        segment=segment(request.features, spec.data.segments),
    )
