"""What travels on the topics: traffic, metrics, observations, alerts, events and commands.

Every struct is frozen and kept out of the garbage collector. Traffic is validated field by field by msgspec while it
is decoded (`schemas.codec`); unknown fields are ignored, so that producers may add some. Times on the wire of
traffic are integers in milliseconds since the epoch (`_ms`); in all other events they are ISO 8601 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

Scalar = float | int | str | bool | None
"""A feature value."""
Label = float | int | str | bool
Probability = float | dict[str, float]
Segment = dict[str, str]


class Wire(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of everything that travels."""


# --------------------------------------------------------------------------------------------- traffic


class InferenceRequest(Wire, frozen=True, gc=False, kw_only=True):
    """A request for one prediction; keyed by `request_id`, which becomes the prediction_id."""

    request_id: str
    model: str
    event_time_ms: int
    features: dict[str, Scalar]
    version: int | None = None
    schema_version: int = 1


class Prediction(Wire, frozen=True, gc=False, kw_only=True):
    """What one version of a model predicted.

    Identity is (model, version, prediction_id); the Kafka key is prediction_id. A model that is only watched may name
    its version as it likes (``"2024-11-rc1"``); the registry gives that name a number.
    """

    prediction_id: str
    model: str
    version: int | str
    event_time_ms: int
    features: dict[str, Scalar]
    prediction: Label
    probability: Probability | None = None
    segment: Segment | None = None
    schema_version: int = 1


class GroundTruth(Wire, frozen=True, gc=False, kw_only=True):
    """What turned out to be true. A null label (or a tombstone) withdraws; a higher revision corrects."""

    prediction_id: str
    event_time_ms: int
    label: Label | None
    revision: int = 0
    schema_version: int = 1


class Heartbeat(Wire, frozen=True, gc=False, kw_only=True):
    """A producer's word that nothing older than `event_time_ms` is still to come on this partition.

    Sent to `predictions` or `ground-truth` with the header ``ce_type: Heartbeat`` and a null key, to an explicit
    partition. It moves the watermark and nothing else: nightly batches close their windows
    without waiting for the next night.
    """

    event_time_ms: int
    schema_version: int = 1


# ------------------------------------------------------------------------- between the monitoring stages


class PaneDelta(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Integer contributions to one pane of one segment.

    Parameters
    ----------
    segment : str
        ``""`` for overall, else ``name=value``.
    pane_start_ms : int
        Start of the pane the prediction belongs to by its own event time.
    effect_start_ms : int
        Start of the pane of the event that caused the contribution (the prediction itself, its label, its expiry);
        never before `pane_start_ms`. The aggregation applies effects in this order, so that what a window holds when it
        closes does not depend on how partitions were interleaved.
    counters : bytes
        Position in the layout (`streams.panes`) to signed contribution, packed (`streams.packed`).
    """

    segment: str
    pane_start_ms: int
    effect_start_ms: int
    counters: bytes


class PartitionWatermark(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Watermark of one stage-1 partition. `idle`: both topics drained to their last stable offset."""

    partition: int
    watermark_ms: int
    idle: bool


class JoinedDelta(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="delta"):
    """All of one commit's contributions to one (model, version) from one stage-1 partition."""

    model: str
    version: int
    layout: str
    partition: int
    panes: list[PaneDelta]


class DeltaBatch(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="deltas"):
    """Deltas of many versions in one record: of all models that belong into the partition (murmur2 of the name).

    Null key, explicit partition. The one topic that is not JSON: msgpack, by `streams.packed`.
    """

    deltas: list[JoinedDelta]


class WatermarkUpdate(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="watermark"):
    """Sent to every partition of joined-deltas when watermarks moved; null key, explicit partition."""

    watermarks: list[PartitionWatermark]


DeltaRecord = JoinedDelta | DeltaBatch | WatermarkUpdate


# ----------------------------------------------------------------------------------- series and crossings

WindowState = Literal["provisional", "closed", "revised"]
Kind = Literal[
    "quality",
    "estimated-quality",
    "calibration",
    "data-drift",
    "prediction-drift",
    "label-drift",
    "data-quality",
    "coverage",
    "label-delay",
    "skew",
    "new-segment",
    "faulty-version",
]
Severity = Literal["info", "warning", "critical"]
Status = Literal["opened", "updated", "closed"]


class Estimate(Wire, frozen=True, gc=False, kw_only=True):
    """How good an estimate of quality is.

    `intervals`: by metric where the realised value will lie, with 95 %. `trust`: 0–1, how well the model's estimates
    held so far; null while nobody knows. `realised`: the window's metrics once its labels were complete, `labelled`
    how many these were.
    """

    intervals: dict[str, tuple[float, float]]
    trust: float | None
    realised: dict[str, float | None] | None = None
    labelled: int | None = None


class QualityMetric(Wire, frozen=True, gc=False, kw_only=True):
    """Metrics of one window of one segment. `coverage` = labelled / predicted, 0–1.

    `estimated`: the metrics are not those of labels but what the scores promise of all `n` predictions; sent when the
    traffic of a window has closed, and again (revised, with what was realised) when its labels are complete.
    `estimate`: of such metrics only.
    """

    model: str
    version: int
    segment: Segment | None
    window: str
    window_start: datetime
    window_end: datetime
    state: WindowState
    revision: int
    n: int
    coverage: float
    metrics: dict[str, float | None]
    estimated: bool = False
    estimate: Estimate | msgspec.UnsetType = msgspec.UNSET


class DriftMetric(Wire, frozen=True, gc=False, kw_only=True):
    """Distance of one subject (``feature:NAME``, ``prediction``, ``label``) from the reference in one window.

    `drifted`: whether the distance that `decides` lies beyond its threshold; None where there are too few values.
    """

    model: str
    version: int
    segment: Segment | None
    subject: str
    window: str
    window_start: datetime
    window_end: datetime
    state: WindowState
    revision: int
    n: int
    statistics: dict[str, float | None]
    decides: str = "psi"
    drifted: bool | None = None


class Observation(Wire, frozen=True, gc=False, kw_only=True, tag_field="type", tag="Observation"):
    """A crossing: something opened, changed or closed. Ids are derived, never random.

    `observed_at` is the event time (watermark) at which the aggregation decided.
    """

    observation_id: str
    model: str
    version: int
    kind: Kind
    subject: str
    segment: Segment | None
    status: Status
    severity: Severity
    window: str
    window_start: datetime
    window_end: datetime
    value: float | None
    reference: float | None
    threshold: float | None
    n: int
    observed_at: datetime
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


class PaneClosed(Wire, frozen=True, gc=False, kw_only=True, tag_field="type", tag="PaneClosed"):
    """The newest pane of a model closed for quality: event time has moved on. Drives schedules and cool-downs.

    One a model and pane, on the topic `observations`. `labelled`: labelled predictions of the pane, once each
    however many versions answered.
    """

    model: str
    pane_start: datetime
    pane_end: datetime
    observed_at: datetime
    labelled: int


AnyObservation = Observation | PaneClosed


FLEET: Final = "*"
"""`Alert.model` of an incident of many models; no model can be called so. Its `version` is 0."""


class Alert(Wire, frozen=True, gc=False, kw_only=True):
    """One incident's news. The incident id is derived from model, kind, subject, segment and opening.

    An incident of many models has `FLEET` as its model; which they are is in its evidence, under ``blast_radius``.
    """

    incident_id: str
    model: str
    version: int
    kind: Kind
    subject: str
    segment: Segment | None
    severity: Severity
    status: Status
    opened_at: datetime
    closed_at: datetime | None
    title: str
    explanation: str
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    links: dict[str, str] = msgspec.field(default_factory=dict)


# -------------------------------------------------------------------------------- retraining and registry


class RetrainRequest(Wire, frozen=True, gc=False, kw_only=True):
    """Ask for a successor. `as_of` is the event time whose knowledge may be used.

    `trigger`: one of the specification's (without argument), or ``manual``. `project`: SHA-256 of a packed project in
    the artifact store to train instead of the champion's own. `changed_at`: event time at which evidence says that the
    world changed.
    """

    request_id: str
    model: str
    trigger: str
    reason: str
    as_of: datetime
    incident_id: str | None = None
    requested_by: str = "alerting"
    project: str | None = None
    changed_at: datetime | None = None


Decision = Literal["initial", "promoted", "rejected", "rolled-back", "failed", "awaiting-approval"]


class TrainingEvent(Wire, tag_field="type", frozen=True, gc=False, kw_only=True):
    """Base of what runs tell; `at` is event time where there is one (`as_of`)."""

    event_id: str
    model: str
    run_id: str
    at: datetime


class RunStarted(TrainingEvent, tag="RunStarted", frozen=True, gc=False, kw_only=True):
    trigger: str
    reason: str


class RunFinished(TrainingEvent, tag="RunFinished", frozen=True, gc=False, kw_only=True):
    version: int | None
    rows: int
    decision: Decision
    reason: str
    report: dict[str, Any] = msgspec.field(default_factory=dict)


class RunFailed(TrainingEvent, tag="RunFailed", frozen=True, gc=False, kw_only=True):
    reason: str


class RunSkipped(TrainingEvent, tag="RunSkipped", frozen=True, gc=False, kw_only=True):
    """A request that led to no run: cool-down, too few labels, another run open."""

    trigger: str
    reason: str


AnyTrainingEvent = RunStarted | RunFinished | RunFailed | RunSkipped


class RegistryEvent(Wire, tag_field="type", frozen=True, gc=False, kw_only=True):
    """Base of what the registry did.

    `epoch` grows by one with every event of the installation: consumers refuse older ones. `actor` is the name that was
    given; `principal` who gave it (``key:ann``, ``local:ann``, ``signer:ci``, ``system:agents``), `authenticated`
    whether a secret proved it, `credential` the public id of the key that did. Events of the whole installation have
    `FLEET` as their model.
    """

    event_id: str
    epoch: int
    at: datetime
    model: str
    actor: str
    principal: str | msgspec.UnsetType = msgspec.UNSET
    authenticated: bool | msgspec.UnsetType = msgspec.UNSET
    credential: str | msgspec.UnsetType = msgspec.UNSET


class ModelRegistered(RegistryEvent, tag="ModelRegistered", frozen=True, gc=False, kw_only=True):
    """`monitored`: trained and served elsewhere, only watched here."""

    task: str
    monitored: bool = False


class VersionRegistered(RegistryEvent, tag="VersionRegistered", frozen=True, gc=False, kw_only=True):
    """`record`: SHA-256 over everything of the version that never changes; releases before it had none."""

    version: int
    artifact: str
    parent: int | None
    record: str | msgspec.UnsetType = msgspec.UNSET


class VersionObserved(RegistryEvent, tag="VersionObserved", frozen=True, gc=False, kw_only=True):
    """A version of a model that is only watched: seen in its predictions, or given another reference.

    `external` is what its predictions call it, `version` the number it has here. One name has a new number with every
    reference (or specification) it is compared with: versions never change. `record` as in `VersionRegistered`.
    """

    version: int
    external: str
    parent: int | None
    reference: str
    reason: str
    record: str | msgspec.UnsetType = msgspec.UNSET


class VersionValidated(RegistryEvent, tag="VersionValidated", frozen=True, gc=False, kw_only=True):
    """Passed the gate: serving stages it (loads, verifies, warms)."""

    version: int
    artifact: str


class ApprovalRequested(RegistryEvent, tag="ApprovalRequested", frozen=True, gc=False, kw_only=True):
    """`allowed_types`: what the version's file may hold beside the defaults; absent where that is nothing."""

    version: int
    approvers: int
    allowed_types: list[str] | msgspec.UnsetType = msgspec.UNSET


class VersionApproved(RegistryEvent, tag="VersionApproved", frozen=True, gc=False, kw_only=True):
    """`allowed_types` as in `ApprovalRequested`; `consented`: those of them that whoever approved agreed to by name."""

    version: int
    comment: str = ""
    allowed_types: list[str] | msgspec.UnsetType = msgspec.UNSET
    consented: list[str] | msgspec.UnsetType = msgspec.UNSET


class VersionRejected(RegistryEvent, tag="VersionRejected", frozen=True, gc=False, kw_only=True):
    version: int
    reason: str


class ModelPromoted(RegistryEvent, tag="ModelPromoted", frozen=True, gc=False, kw_only=True):
    """`probation`: `previous` goes on answering in shadow. `allowed_types` as in `ApprovalRequested`."""

    version: int
    previous: int | None
    artifact: str
    probation: bool = False
    allowed_types: list[str] | msgspec.UnsetType = msgspec.UNSET


class ModelRolledBack(RegistryEvent, tag="ModelRolledBack", frozen=True, gc=False, kw_only=True):
    """`allowed_types` as in `ApprovalRequested`."""

    version: int
    previous: int
    artifact: str
    reason: str
    allowed_types: list[str] | msgspec.UnsetType = msgspec.UNSET


class ProbationEnded(RegistryEvent, tag="ProbationEnded", frozen=True, gc=False, kw_only=True):
    """The champion stays: `previous` no longer answers in shadow beside it."""

    version: int
    previous: int
    reason: str


class ApprovalLapsed(RegistryEvent, tag="ApprovalLapsed", frozen=True, gc=False, kw_only=True):
    """Nobody decided in time; what was approved so far counts no more. It can be asked for again."""

    version: int


class VersionArchived(RegistryEvent, tag="VersionArchived", frozen=True, gc=False, kw_only=True):
    """The version is out of use for good: it cannot be promoted or brought back."""

    version: int
    reason: str


class RollbackReviewed(RegistryEvent, tag="RollbackReviewed", frozen=True, gc=False, kw_only=True):
    """Somebody looked at a roll-back after the fact. `rollback_epoch`: the epoch of its event."""

    version: int
    rollback_epoch: int
    comment: str


class VersionFlagged(RegistryEvent, tag="VersionFlagged", frozen=True, gc=False, kw_only=True):
    """The version was found faulty, or descends from `source`, which was: no promotion. `live`: it is champion."""

    version: int
    source: int
    reason: str
    live: bool


class FlagWithdrawn(RegistryEvent, tag="FlagWithdrawn", frozen=True, gc=False, kw_only=True):
    """The version is no longer flagged because of `source`."""

    version: int
    source: int
    reason: str


class TagsChanged(RegistryEvent, tag="TagsChanged", frozen=True, gc=False, kw_only=True):
    """Tags were set or removed: of a version, or of the model where `version` is null.

    ``@owner`` and ``@team`` are what the model's specification says of them.
    """

    version: int | None
    tags: dict[str, str]
    removed: list[str]


class AccessChanged(RegistryEvent, tag="AccessChanged", frozen=True, gc=False, kw_only=True):
    """Somebody was given a right, or lost one. `subject`: whose; `credential_id`: of which key, if of one."""

    change: Literal["key-created", "key-revoked", "granted", "withdrawn", "signer-added", "signer-revoked"]
    subject: str
    detail: str
    credential_id: str | None = None


class CommandRefused(RegistryEvent, tag="CommandRefused", frozen=True, gc=False, kw_only=True):
    """A command of `registry-commands` that was not believed. `actor`: whom it named; `reason` as in its letter.

    Or, `reason` ``artifact``: a version that was not let in because its file is missing or altered.
    """

    command: str
    command_id: str
    reason: str
    detail: str


class SubjectErased(RegistryEvent, tag="SubjectErased", frozen=True, gc=False, kw_only=True):
    """The keys of a person were destroyed: whatever was kept under them cannot be read any more.

    `subject`: its pseudonym, the HMAC-SHA256 of its name under the installation's secret. `trained`: versions that
    learnt from its rows, by model; `more`: how many others there are, where they are too many for one event.
    """

    subject: str
    keys: int
    trained: dict[str, list[int]]
    more: int = 0


class ArchiveExpired(RegistryEvent, tag="ArchiveExpired", frozen=True, gc=False, kw_only=True):
    """Files of the archive were let go: their retention was over. `rows`: by topic; `sha256`: over the sorted list of
    their hashes and paths; `reason`: ``retention``, or that they went although versions needed them.
    """

    files: int
    rows: dict[str, int]
    sha256: str
    reason: str


AnyRegistryEvent = (
    ArchiveExpired
    | ModelRegistered
    | VersionRegistered
    | VersionObserved
    | VersionValidated
    | ApprovalRequested
    | VersionApproved
    | VersionRejected
    | ModelPromoted
    | ModelRolledBack
    | ProbationEnded
    | ApprovalLapsed
    | VersionArchived
    | RollbackReviewed
    | VersionFlagged
    | FlagWithdrawn
    | TagsChanged
    | AccessChanged
    | CommandRefused
    | SubjectErased
)


class VersionState(Wire, frozen=True, gc=False, kw_only=True):
    """A version as `registry-state` carries it.

    `external`: its name elsewhere; such a version has no artifact. `flagged`: found faulty, or descends from such.
    `withheld`: its file may hold types that nobody has agreed to; it is not to be loaded before it is champion.
    """

    version: int
    stage: str
    artifact: str
    reference: str
    specification: str
    registered_epoch: int
    parent: int | None = None
    external: str | None = None
    flagged: bool | msgspec.UnsetType = msgspec.UNSET
    withheld: bool | msgspec.UnsetType = msgspec.UNSET


class ModelState(Wire, frozen=True, gc=False, kw_only=True):
    """The latest state of one model: the value of the compacted topic `registry-state`, key = model.

    `monitored`: trained and served elsewhere. Its predictions name versions by `VersionState.external`.
    `shadow`: the champion before this one, while it answers every request too, for the probation.
    """

    model: str
    epoch: int
    task: str
    champion: int | None
    challenger: int | None
    versions: list[VersionState]
    monitored: bool = False
    shadow: int | None = None


class RegistryCommand(Wire, tag_field="type", frozen=True, gc=False, kw_only=True):
    """Base of what people and agents ask of the registry. `command_id` makes a repeat harmless."""

    command_id: str
    model: str
    actor: str


class ApproveVersion(RegistryCommand, tag="ApproveVersion", frozen=True, gc=False, kw_only=True):
    """`consented`: types beside the defaults that the version's file may hold from now on."""

    version: int
    comment: str = ""
    consented: list[str] = msgspec.field(default_factory=list)


class RejectVersion(RegistryCommand, tag="RejectVersion", frozen=True, gc=False, kw_only=True):
    version: int
    reason: str


class RollBackModel(RegistryCommand, tag="RollBackModel", frozen=True, gc=False, kw_only=True):
    """`expected`: the champion that is meant; another one stays. `at`: event time of the knowledge, where there is."""

    reason: str
    to: int | None = None
    expected: int | None = None
    at: datetime | None = None


class EndProbation(RegistryCommand, tag="EndProbation", frozen=True, gc=False, kw_only=True):
    """The champion `version` stays, and its predecessor need not answer in shadow any more."""

    version: int
    reason: str
    at: datetime | None = None


class SubmitCandidate(RegistryCommand, tag="SubmitCandidate", frozen=True, gc=False, kw_only=True):
    """A trained version with its validation report asks to be decided on: the gate's verdict is in the report."""

    version: int
    run_id: str
    passed: bool
    reason: str
    at: datetime


class ObserveVersion(RegistryCommand, tag="ObserveVersion", frozen=True, gc=False, kw_only=True):
    """A prediction of a model that is only watched names a version that has no number yet. `at`: its event time."""

    external: str
    at: datetime


AnyRegistryCommand = ApproveVersion | RejectVersion | RollBackModel | EndProbation | SubmitCandidate | ObserveVersion


# -------------------------------------------------------------------------------------------- serving


class ServingEvent(Wire, tag_field="type", frozen=True, gc=False, kw_only=True):
    event_id: str
    model: str
    at: datetime


class ModelSwapped(ServingEvent, tag="ModelSwapped", frozen=True, gc=False, kw_only=True):
    """`offsets`: for each input topic and partition the first offset that `to_version` answered.

    `pause_ms`: how long requests waited for the switch.
    """

    from_version: int | None
    to_version: int
    epoch: int
    offsets: dict[str, dict[str, int]]
    pause_ms: float
    worker: str


class CandidateStaged(ServingEvent, tag="CandidateStaged", frozen=True, gc=False, kw_only=True):
    version: int
    artifact: str
    worker: str


class ModelRefused(ServingEvent, tag="ModelRefused", frozen=True, gc=False, kw_only=True):
    """An artifact could not be loaded or failed in use; the last good version goes on."""

    version: int
    reason: str
    worker: str


AnyServingEvent = ModelSwapped | CandidateStaged | ModelRefused


# ------------------------------------------------------------------------------------------- journal


class JournalRecord(Wire, frozen=True, gc=False, kw_only=True):
    """One commit of one stage-1 partition: what a rebuild replays, in order.

    `slices`: topic → [first, last + 1] consumed in this commit. `low_water`: topic → oldest offset that live state
    still needs (the end of the slice where nothing is live). `journal_low_water`: offset of the journal record from
    which a rebuild has to replay (it may stand a little before it), `low_water_sequence` its number and
    `low_water_watermark_ms` the watermark before it. `sequence` counts the partition's commits from 1, without a gap.
    `totals` are the accounting counters after the commit. Key:
    ``join-<partition>`` (the aggregation's snapshots share the topic under keys of their own).
    """

    partition: int
    slices: dict[str, tuple[int, int]]
    watermark_ms: int
    topic_watermarks_ms: dict[str, int]
    idle: dict[str, bool]
    now_ms: int
    registry_epoch: int
    low_water: dict[str, int]
    journal_low_water: int
    totals: dict[str, int]
    partitions: int
    sequence: int = 0
    low_water_sequence: int = 0
    low_water_watermark_ms: int = -1
    schema_version: int = 1
