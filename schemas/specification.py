"""The model specification: `driftline.toml`, parsed, defaulted and checked.

Errors name file, key and the accepted values; a specification that parses can be used everywhere without more checks.
"""

from __future__ import annotations

import math
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from schemas.durations import parse_count, parse_duration, parse_rate
from schemas.errors import SpecificationError
from schemas.inheritance import KEY as EXTENDS
from schemas.inheritance import resolved_text
from schemas.metrics import accepted, better, problem
from schemas.windows import TimeWindow, check_windows, pane_of, parse_window

FILE_NAME = "driftline.toml"
Task = Literal["binary", "multiclass", "regression"]
FeatureKind = Literal["numeric", "categorical", "boolean"]
DriftMeasure = Literal["psi", "jensen_shannon", "chi2", "ks", "wasserstein"]
"""Distance that decides about drift; all of them are published."""
SequentialDetector = Literal["page-hinkley", "ddm", "hddm"]
"""Detectors that watch the loss pane by pane besides the cumulative sum and ADWIN."""

CALIBRATION = "calibration_error"
"""Watched of every classifier that says how sure it is, named or not: a kind of its own."""
EVERY = "*"
"""`segment_features`: all of them."""
AUTO = "auto"
"""`training_window`: every run chooses its rows by validation."""
TRIGGERS = ("quality", "drift", "schedule", "data", "code", "new-segment")
NEVER_ALLOWED = sys.stdlib_module_names | {"agents", "streams", "schemas", "joblib", "dill", "cloudpickle"}
"""Packages of which no model file may bring anything, whatever a specification allows."""
_TYPE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ModelSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    task: Task
    positive: int | float | str | bool = 1
    threshold: float = 0.5
    per: str | None = None
    member: dict[str, str] = msgspec.field(default_factory=dict)
    """Of a model that was made of a fleet's specification: the column and its value."""
    description: str = ""
    owner: str = ""
    team: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    allowed_types: list[str] = msgspec.field(default_factory=list)


class DataSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    event_time: str
    label: str
    label_time: str | None = None
    max_label_delay: str
    revision_horizon: str | None = None
    segments: list[str] = msgspec.field(default_factory=list)
    subject: str | None = None
    """The column that says whose data a row is: what is personal of it is kept under a key of that subject."""
    personal: list[str] = msgspec.field(default_factory=lambda: [EVERY])
    """Features and segments that are personal data."""


class MetricsSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    primary: str
    watch: list[str] = msgspec.field(default_factory=list)
    cost: dict[str, float] = msgspec.field(default_factory=dict)
    windows: list[str] = msgspec.field(default_factory=lambda: ["1d", "7d"])


class AlarmsSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    budget: str = "1/30d"
    drift: DriftMeasure = "psi"
    sequential: list[SequentialDetector] = msgspec.field(default_factory=lambda: ["page-hinkley", "ddm", "hddm"])
    thresholds: dict[str, float] = msgspec.field(default_factory=dict)
    cool_down: str | None = None
    minimum_labelled: int = 100
    estimate: bool = True
    segment_features: list[str] = msgspec.field(default_factory=list)


class Tolerance(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    overall: float = 0.0
    segment: float = 0.02


class ValidationSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tolerance: Tolerance = msgspec.field(default_factory=Tolerance)
    sensitive: list[str] = msgspec.field(default_factory=list)


class RetrainingSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    triggers: list[str] = msgspec.field(default_factory=lambda: ["quality", "drift"])
    training_window: str = "90d"
    cool_down: str = "7d"
    min_labels: int = 1000
    probation: str = "0"


class ApprovalSection(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mode: Literal["auto", "manual"] = "auto"
    approvers: int = 1
    four_eyes: bool = False
    expires: str | None = None


class Specification(_Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A checked model specification.

    Notes
    -----
    Build it with `parse` or `load`; the plain constructor does not check what lies across sections.
    """

    model: ModelSection
    data: DataSection
    features: dict[str, FeatureKind]
    metrics: MetricsSection
    alarms: AlarmsSection = msgspec.field(default_factory=AlarmsSection)
    validation: ValidationSection = msgspec.field(default_factory=ValidationSection)
    retraining: RetrainingSection = msgspec.field(default_factory=RetrainingSection)
    approval: ApprovalSection = msgspec.field(default_factory=ApprovalSection)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def task(self) -> Task:
        return self.model.task

    @property
    def is_fleet(self) -> bool:
        """Whether it stands for many models."""
        return self.model.per is not None or "{" in self.model.name

    @property
    def max_label_delay_ms(self) -> int:
        return parse_duration(self.data.max_label_delay)

    @property
    def revision_horizon_ms(self) -> int:
        """Defaults to `max_label_delay`."""
        return parse_duration(self.data.revision_horizon or self.data.max_label_delay)

    @property
    def watched(self) -> list[str]:
        """Watched metrics, the primary first, each once."""
        return list(dict.fromkeys([self.metrics.primary, *self.metrics.watch]))

    @property
    def judged(self) -> list[str]:
        """Watched metrics that are compared with the reference: those of which one side is better."""
        return [name for name in self.watched if better(name)]

    @property
    def segment_features(self) -> list[str]:
        """Features that are watched in every segment, too, in the specification's order."""
        named = self.alarms.segment_features
        return [name for name in self.features if name in named or EVERY in named]

    @property
    def tested(self) -> list[str]:
        """Metrics that are compared with the reference: `judged`, and of classes how calibrated their scores are."""
        return list(dict.fromkeys([*self.judged, *([CALIBRATION] if self.task != "regression" else [])]))

    @property
    def open_names(self) -> frozenset[str]:
        """Features and segments that are not personal; where no subject is named, nothing is asked for them."""
        if EVERY in self.data.personal:
            return frozenset()
        named = {*self.features, *self.data.segments} - {*self.data.personal, self.data.subject}
        return frozenset(name for name in named if name is not None)

    @property
    def time_windows(self) -> dict[str, TimeWindow]:
        """Time windows by name, in the order written."""
        return {text: parse_window(text) for text in self.metrics.windows if parse_count(text) is None}

    @property
    def count_windows(self) -> dict[str, int]:
        """Count windows by name, in labelled events."""
        return {text: count for text in self.metrics.windows if (count := parse_count(text)) is not None}

    @property
    def pane_ms(self) -> int:
        """Length of a pane: what divides all lengths, steps and offsets of time windows; a day without any."""
        return pane_of(self.time_windows.values()) or 86_400_000

    @property
    def budget_per_ms(self) -> float:
        return parse_rate(self.alarms.budget)

    @property
    def alarm_cool_down_ms(self) -> int:
        """How long after it closed the same trouble reopens an incident instead of raising a new one."""
        return self.cool_down_ms if self.alarms.cool_down is None else parse_duration(self.alarms.cool_down)

    @property
    def schedule_ms(self) -> int | None:
        """Period of the ``schedule:…`` trigger, where there is one."""
        for trigger in self.retraining.triggers:
            if trigger.startswith("schedule:"):
                return parse_duration(trigger.removeprefix("schedule:"))
        return None

    @property
    def training_window_ms(self) -> int | None:
        """Length of the training window; None where every run chooses its rows itself (``auto``)."""
        if self.retraining.training_window == AUTO:
            return None
        return parse_duration(self.retraining.training_window)

    @property
    def probation_ms(self) -> int:
        """Event time for which a promoted version is compared with the one before; 0: never."""
        return 0 if self.retraining.probation == "0" else parse_duration(self.retraining.probation)

    @property
    def cool_down_ms(self) -> int:
        return parse_duration(self.retraining.cool_down)

    def columns(self) -> list[str]:
        """Feature columns in the order written."""
        return list(self.features)


def _where(file: str, key: str) -> str:
    return f"{file} [{key}]" if key else file


def _known(file: str, key: str, values: list[str], accepted: Mapping[str, Any] | list[str] | tuple[str, ...]) -> None:
    for value in values:
        if value not in accepted:
            raise SpecificationError(
                f"{value!r} is not accepted", where=_where(file, key), remedy="accepted: " + ", ".join(accepted)
            )


def _check_metrics(spec: Specification, file: str) -> None:
    for key, names in (("metrics.primary", [spec.metrics.primary]), ("metrics.watch", spec.metrics.watch)):
        for name in names:
            if wrong := problem(spec.task, name):
                raise SpecificationError(
                    wrong, where=_where(file, key), remedy="accepted: " + ", ".join(accepted(spec.task))
                )
    if better(spec.metrics.primary) is None:
        raise SpecificationError(
            f"{spec.metrics.primary!r} describes, no value of it is better than another",
            where=_where(file, "metrics.primary"),
            remedy="accepted: " + ", ".join(name for name in accepted(spec.task) if better(name)),
        )


def _check_alarms(spec: Specification, file: str) -> None:
    parse_rate(spec.alarms.budget, where=_where(file, "alarms.budget"))
    if spec.alarms.cool_down is not None:
        parse_duration(spec.alarms.cool_down, where=_where(file, "alarms.cool_down"))
    if spec.alarms.minimum_labelled < 1:
        raise SpecificationError("must be at least 1", where=_where(file, "alarms.minimum_labelled"))
    _known(file, "alarms.segment_features", spec.alarms.segment_features, [*spec.features, EVERY])
    if spec.alarms.segment_features and not spec.data.segments:
        raise SpecificationError(
            "there is no segment to watch features in",
            where=_where(file, "alarms.segment_features"),
            remedy='name one in [data] segments, such as "origin"',
        )
    subjects = [*get_args(DriftMeasure), *(f"feature:{name}" for name in spec.features), "prediction", "label"]
    for name, value in spec.alarms.thresholds.items():
        where = _where(file, f"alarms.thresholds.{name}")
        if name not in subjects and name not in spec.tested:
            raise SpecificationError(
                f"{name!r} has no threshold", where=where, remedy="accepted: " + ", ".join([*spec.tested, *subjects])
            )
        if not math.isfinite(value) or (name in subjects and value <= 0):
            raise SpecificationError(
                f"{value} is no threshold", where=where, remedy="a finite number; of a distance, above 0"
            )


def _check_allowed(spec: Specification, file: str) -> None:
    for name in spec.model.allowed_types:
        if not _TYPE.match(name) or name.partition(".")[0] in NEVER_ALLOWED:
            raise SpecificationError(
                f"{name!r} cannot be allowed",
                where=_where(file, "model.allowed_types"),
                remedy='name one class or function, such as "lightgbm.sklearn.LGBMClassifier"; of the standard library '
                "nothing that acts on the system",
            )


def _check_fleet(spec: Specification, file: str) -> None:
    """A fleet's name holds its column, once, and nothing else in braces."""
    per, name = spec.model.per, spec.model.name
    if per is None or name.count(f"{{{per}}}") != 1 or not _NAME.match(name.replace(f"{{{per}}}", "x")):
        raise SpecificationError(
            f"{name!r} cannot name the models of a fleet" if per else f"{name!r} names a column, and per names none",
            where=_where(file, "model.name" if per else "model.per"),
            remedy='write name = "bus-{route}" and per = "route": the name holds the column once, in braces',
        )
    if spec.model.member:
        raise SpecificationError(
            "is filled in for the models of a fleet", where=_where(file, "model.member"), remedy="leave it out"
        )


def _check_subject(spec: Specification, file: str) -> None:
    """Whose data it is stands in a column of its own, and what is personal is named."""
    data = spec.data
    _known(file, "data.personal", data.personal, [*spec.features, *data.segments, EVERY])
    if data.subject is None:
        if data.personal != [EVERY]:
            raise SpecificationError(
                "data is personal to a subject, and none is named",
                where=_where(file, "data.personal"),
                remedy='name the column that says whose data a row is: subject = "customer_id"',
            )
        return
    where = _where(file, "data.subject")
    taken = {data.id, data.event_time, data.label, data.label_time, spec.model.per, *spec.model.member}
    if not data.subject or data.subject in taken:
        raise SpecificationError(
            f"{data.subject!r} cannot say whose data a row is",
            where=where,
            remedy="name a column of its own: ids, times, labels and names of models are not encrypted",
        )
    if strange := [name for name in (data.subject, *spec.features, *data.segments) if name.startswith("$")]:
        raise SpecificationError(
            f"{strange[0]!r} begins with $", where=where, remedy="names with $ are kept for what is encrypted"
        )


def _check(spec: Specification, file: str) -> None:
    if spec.is_fleet:
        _check_fleet(spec, file)
    if not spec.is_fleet and not _NAME.match(spec.model.name):
        raise SpecificationError(
            f"{spec.model.name!r} cannot be a model name",
            where=_where(file, "model.name"),
            remedy="use letters, digits, '.', '_' and '-', at most 128",
        )
    _check_allowed(spec, file)
    if not 0.0 < spec.model.threshold < 1.0:
        raise SpecificationError(
            f"{spec.model.threshold} is no threshold", where=_where(file, "model.threshold"), remedy="0 < threshold < 1"
        )
    if not spec.features:
        raise SpecificationError(
            "no feature is named", where=_where(file, "features"), remedy='add a line such as distance = "numeric"'
        )
    parse_duration(spec.data.max_label_delay, where=_where(file, "data.max_label_delay"))
    if spec.data.revision_horizon is not None:
        parse_duration(spec.data.revision_horizon, where=_where(file, "data.revision_horizon"))
    _check_metrics(spec, file)
    _known(file, "metrics.cost", list(spec.metrics.cost), ("false_negative", "false_positive"))
    if "cost" in spec.watched and not spec.metrics.cost:
        raise SpecificationError(
            "the metric cost needs prices",
            where=_where(file, "metrics.cost"),
            remedy="cost = { false_negative = 5.0, false_positive = 1.0 }",
        )
    for key, price in spec.metrics.cost.items():
        if not math.isfinite(price):
            raise SpecificationError(
                f"{price} is no price", where=_where(file, f"metrics.cost.{key}"), remedy="write a finite number"
            )
    if not spec.metrics.windows:
        raise SpecificationError("no window", where=_where(file, "metrics.windows"), remedy='windows = ["1d", "7d"]')
    check_windows(spec.metrics.windows, where=_where(file, "metrics.windows"))
    _check_subject(spec, file)
    _known(file, "validation.sensitive", spec.validation.sensitive, [*spec.features, *spec.data.segments])
    _check_alarms(spec, file)
    for trigger in spec.retraining.triggers:
        name, _, argument = trigger.partition(":")
        _known(file, "retraining.triggers", [name], TRIGGERS)
        if name == "schedule":
            parse_duration(argument, where=_where(file, "retraining.triggers"))
        elif argument:
            raise SpecificationError(
                f"{trigger!r} takes no argument", where=_where(file, "retraining.triggers"), remedy=f'write "{name}"'
            )
    if spec.retraining.training_window != AUTO:
        parse_duration(spec.retraining.training_window, where=_where(file, "retraining.training_window"))
    if spec.retraining.probation != "0":
        parse_duration(spec.retraining.probation, where=_where(file, "retraining.probation"))
        if not spec.time_windows:
            raise SpecificationError(
                "a probation compares windows of time, and there is none",
                where=_where(file, "retraining.probation"),
                remedy='add one to [metrics] windows, such as "1d", or write probation = "0"',
            )
    parse_duration(spec.retraining.cool_down, where=_where(file, "retraining.cool_down"))
    if spec.retraining.min_labels < 1:
        raise SpecificationError("must be at least 1", where=_where(file, "retraining.min_labels"))
    if spec.approval.approvers < 1:
        raise SpecificationError("must be at least 1", where=_where(file, "approval.approvers"))
    if spec.approval.expires is not None:
        parse_duration(spec.approval.expires, where=_where(file, "approval.expires"))


def parse(text: str, *, file: str = FILE_NAME) -> Specification:
    """Parse and check a specification.

    Parameters
    ----------
    text : str
        TOML.
    file : str
        How errors name it.

    Raises
    ------
    SpecificationError
        Naming file, key (or line) and the accepted values.
    """
    return of_document(document_of(text, file=file), file=file)


def document_of(text: str, *, file: str = FILE_NAME) -> dict[str, Any]:
    """The TOML document of a specification, not checked yet.

    Raises
    ------
    SpecificationError
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecificationError(
            f"not TOML: {error}", where=file, remedy="see https://toml.io for the syntax"
        ) from error


def of_document(document: Mapping[str, Any], *, file: str = FILE_NAME) -> Specification:
    """Check a document and default what it leaves out.

    Raises
    ------
    SpecificationError
        As `parse`.
    """
    try:
        spec = msgspec.convert(document, Specification)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").lstrip(".")
        if EXTENDS in document:
            message, key = "what a specification extends is known only where its file lies", EXTENDS
        raise SpecificationError(message, where=_where(file, key), remedy=_accepted(key)) from error
    _check(spec, file)
    return spec


def _accepted(key: str) -> str:
    """What may stand at `key`, said for the keys people get wrong."""
    if key == "model.task":
        return "accepted: binary, multiclass, regression"
    if key.startswith("features"):
        return "accepted: numeric, categorical, boolean"
    if key.startswith("alarms.sequential"):
        return "accepted: " + ", ".join(get_args(SequentialDetector))
    if key == "alarms.drift":
        return "accepted: " + ", ".join(get_args(DriftMeasure))
    if key == "approval.mode":
        return "accepted: auto, manual"
    sections: dict[str, type[msgspec.Struct]] = {
        "model": ModelSection,
        "data": DataSection,
        "metrics": MetricsSection,
        "alarms": AlarmsSection,
        "validation": ValidationSection,
        "retraining": RetrainingSection,
        "approval": ApprovalSection,
    }
    section = sections.get(key.partition(".")[0])
    names = section.__struct_fields__ if section else Specification.__struct_fields__
    return f"keys of {'[' + key.partition('.')[0] + ']' if section else 'the file'}: " + ", ".join(names)


def load(path: Path) -> Specification:
    """Read `driftline.toml`, with what it extends, from a project folder or a file.

    Raises
    ------
    SpecificationError
        Where the file is missing or wrong.
    """
    file = path / FILE_NAME if path.is_dir() else path
    return parse(resolved_text(file), file=str(file))
