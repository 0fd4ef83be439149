"""What one record does to the entry of its prediction_id.

Labels are ordered by (revision, offset). The first prediction of an id decides what happens to a label (taken,
duplicate, late, of a wrong type); every further prediction of the id takes those labels that it can itself take. So
the outcome does not depend on how the two topics were interleaved, only on the order within each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from schemas.events import Label, Prediction
from schemas.topics import MOST_EXTERNAL_VERSIONS
from streams.join import totals as t
from streams.join.deltas import Deltas, add
from streams.join.entries import TOMBSTONE_REVISION, Entry, JoinedPrediction, LabelFact, WaitingLabel
from streams.panes import PanePlan

LATE: Final = "late"
CONFLICT: Final = "conflicting-prediction"
LABEL_TYPE: Final = "label-type"
PREDICTION_TYPE: Final = "prediction-type"
FUTURE: Final = "future"
TOO_MANY_VERSIONS: Final = (
    "too-many-versions",
    f"its model has {MOST_EXTERNAL_VERSIONS} versions, and this is of another: no more are taken",
)

PlanOf = Callable[[str, int], PanePlan | None]


class Effects(Protocol):
    """What the rules report to: counts, contributions and refusals of one batch."""

    deltas: Deltas | None
    """None while a rebuild replays silently."""

    def count(self, name: str, by: int = 1) -> None:
        """Add to a total."""

    def refuse(self, label: WaitingLabel, reason: str, message: str) -> None:
        """Dead-letter a label."""


def floor(at_ms: int, pane_ms: int) -> int:
    """Start of the pane that `at_ms` lies in."""
    return at_ms - at_ms % pane_ms


# ------------------------------------------------------------------------------------------ predictions


def join_prediction(
    prediction: Prediction, version: int, payload: bytes, plan: PanePlan, effects: Effects
) -> JoinedPrediction:
    """A prediction that is the first of its identity: pending, and counted in the panes of its own event time.

    `version`: the number of its version, which it may call otherwise.
    """
    compact = plan.compact(prediction)
    at_ms = prediction.event_time_ms
    effects.count(t.PREDICTIONS)
    effects.count(t.PENDING)
    if effects.deltas is not None:
        panes = effects.deltas.panes(prediction.model, version, plan.layout)
        pane = floor(at_ms, plan.pane_ms)
        for segment in compact.segments:
            add(panes, (segment, pane, pane), plan.traffic(prediction, segment, compact))
    return JoinedPrediction(prediction.model, version, at_ms, payload, compact, at_ms + plan.max_label_delay_ms, at_ms)


def add_prediction(entry: Entry, joined: JoinedPrediction, plan_of: PlanOf, effects: Effects) -> Entry:
    """Add a prediction to its entry: it meets the labels that are already there."""
    if entry.predictions:
        plan = known(plan_of, joined)
        for fact in entry.labels:
            if _takes(joined, plan, fact):
                joined = apply(joined, plan, fact, effects)
        return msgspec.structs.replace(entry, predictions=(*entry.predictions, joined))
    waiting = entry.waiting
    entry = msgspec.structs.replace(entry, predictions=(joined,), waiting=())
    effects.count(t.LABELS_WAITING, -len(waiting))
    for label in waiting:
        entry = judge(entry, label, plan_of, effects)
    return entry


# ----------------------------------------------------------------------------------------------- labels


def judge(entry: Entry, label: WaitingLabel, plan_of: PlanOf, effects: Effects) -> Entry:
    """Decide what happens to a label of an entry that has a prediction, and let it happen."""
    first = entry.predictions[0]
    plan = known(plan_of, first)
    if label.event_time_ms > first.event_time_ms + plan.max_label_delay_ms + plan.revision_horizon_ms:
        # Past all that this prediction could ever be told. Whether its entry still lives depends on how the topics were
        # interleaved; what becomes of the label must not.
        effects.count(t.LABELS_WAITING)
        return msgspec.structs.replace(entry, waiting=(*entry.waiting, label))
    if label.until_ms <= first.event_time_ms and label.revision != TOMBSTONE_REVISION:
        # It may as well have been given up before the prediction came.
        effects.count(t.LABELS_ORPHANED)
        return entry
    top = entry.labels[-1] if entry.labels else None
    if label.revision == TOMBSTONE_REVISION:
        if top is None:
            effects.count(t.LABELS_ORPHANED)
            return entry
        fact = LabelFact(top.event_time_ms, TOMBSTONE_REVISION, None)
    else:
        fact = LabelFact(label.event_time_ms, label.revision, label.label)
        if top is not None and fact.revision < top.revision:
            effects.count(t.LABELS_DUPLICATE)
            return entry
    if fact == top:
        effects.count(t.LABELS_DUPLICATE)
        return entry
    if fact.label is not None and not plan.accepts(fact.label):
        effects.count(t.LABELS_DEAD)
        effects.refuse(label, LABEL_TYPE, f"a {plan.task} model takes no label {fact.label!r}")
        return entry
    # A tombstone has no event time, so how far the watermark is must not decide about it; where its prediction has
    # expired, no label is left that it could take back.
    tombstone = fact.revision == TOMBSTONE_REVISION
    if not tombstone and (first.expired or fact.event_time_ms > first.until_ms):
        effects.count(t.LABELS_LATE)
        effects.refuse(label, LATE, _lateness(first, fact))
        return entry
    effects.count(t.LABELS_MATCHED)
    if top is not None:
        effects.count(t.LABELS_REVISED)
    predictions = []
    for joined in entry.predictions:
        plan = known(plan_of, joined)
        predictions.append(apply(joined, plan, fact, effects) if _takes(joined, plan, fact) else joined)
    return msgspec.structs.replace(entry, predictions=tuple(predictions), labels=(*entry.labels, fact))


def _takes(joined: JoinedPrediction, plan: PanePlan, fact: LabelFact) -> bool:
    if joined.expired or fact.event_time_ms > joined.until_ms:
        return False
    return fact.label is None or plan.accepts(fact.label)


def apply(joined: JoinedPrediction, plan: PanePlan, fact: LabelFact, effects: Effects) -> JoinedPrediction:
    """Let a prediction take a label: the old contribution goes, the new one comes, at the label's event time."""
    first_ms = joined.first_label_ms
    until_ms = joined.until_ms
    if first_ms is None:
        first_ms = fact.event_time_ms
        # A label may come before its prediction; corrections get their time all the same.
        until_ms = max(first_ms, joined.event_time_ms) + plan.revision_horizon_ms
    effect_ms = max(joined.effect_ms, fact.event_time_ms)
    old, new = joined.label, fact.label
    if effects.deltas is not None and (old is not None or new is not None):
        _contribute(joined, plan, effects.deltas, old, new, first_ms - joined.event_time_ms, effect_ms)
    revised = joined.revised or (joined.first_label_ms is not None and old != new)
    if revised and not joined.revised:
        effects.count(t.REVISED)
    if old is None and new is not None:
        effects.count(t.PENDING, -1)
        effects.count(t.LABELLED)
    elif old is not None and new is None:
        effects.count(t.PENDING)
        effects.count(t.LABELLED, -1)
        effects.count(t.WITHDRAWN)
    return msgspec.structs.replace(
        joined, first_label_ms=first_ms, until_ms=until_ms, effect_ms=effect_ms, label=new, revised=revised
    )


def _contribute(  # noqa: PLR0917 - all of one contribution
    joined: JoinedPrediction,
    plan: PanePlan,
    deltas: Deltas,
    old: Label | None,
    new: Label | None,
    delay_ms: int,
    effect_ms: int,
) -> None:
    # The delay is that until the first label: a correction does not make the label slower.
    panes = deltas.panes(joined.model, joined.version, plan.layout)
    pane, effect = floor(joined.event_time_ms, plan.pane_ms), floor(effect_ms, plan.pane_ms)
    compact = joined.compact
    taken = plan.labelled(compact, old, delay_ms) if old is not None else None
    given = plan.labelled(compact, new, delay_ms) if new is not None else None
    for segment in compact.segments:
        key = (segment, pane, effect)
        if taken is not None:
            add(panes, key, taken, -1)
        if given is not None:
            add(panes, key, given)


# ------------------------------------------------------------------------------------------------- time


def pass_time(entry: Entry, watermark_ms: int, plan_of: PlanOf, effects: Effects) -> Entry:
    """End the pending predictions that no label can reach any more, and the labels that waited long enough.

    Notes
    -----
    A prediction whose label was withdrawn is pending again, until no correction can come.
    """
    waiting = tuple(label for label in entry.waiting if label.until_ms > watermark_ms)
    orphaned = len(entry.waiting) - len(waiting)
    if orphaned:
        effects.count(t.LABELS_WAITING, -orphaned)
        effects.count(t.LABELS_ORPHANED, orphaned)
    return msgspec.structs.replace(
        entry,
        waiting=waiting,
        predictions=tuple(
            _expire(joined, plan_of, effects) if joined.pending and joined.until_ms < watermark_ms else joined
            for joined in entry.predictions
        ),
    )


def _expire(joined: JoinedPrediction, plan_of: PlanOf, effects: Effects) -> JoinedPrediction:
    effects.count(t.PENDING, -1)
    effects.count(t.EXPIRED)
    effect_ms = max(joined.until_ms, joined.effect_ms)
    if effects.deltas is not None:
        plan = known(plan_of, joined)
        panes = effects.deltas.panes(joined.model, joined.version, plan.layout)
        pane, effect = floor(joined.event_time_ms, plan.pane_ms), floor(effect_ms, plan.pane_ms)
        contribution = plan.expired(joined.compact)
        for segment in joined.compact.segments:
            add(panes, (segment, pane, effect), contribution)
    return msgspec.structs.replace(joined, expired=True, effect_ms=effect_ms)


def forget(entry: Entry, plan_of: PlanOf, effects: Effects) -> None:
    """An entry's time is over: what is pending expires, what waits is orphaned."""
    for joined in entry.predictions:
        if joined.pending:
            _expire(joined, plan_of, effects)
    if entry.waiting:
        effects.count(t.LABELS_WAITING, -len(entry.waiting))
        effects.count(t.LABELS_ORPHANED, len(entry.waiting))


def known(plan_of: PlanOf, joined: JoinedPrediction) -> PanePlan:
    """The plan of a version that was known when its prediction came: versions are never taken away."""
    plan = plan_of(joined.model, joined.version)
    if plan is None:
        raise LookupError(f"{joined.model} version {joined.version} was known and is not any more")
    return plan


def _lateness(joined: JoinedPrediction, fact: LabelFact) -> str:
    if joined.expired:
        return f"its prediction of event time {joined.event_time_ms} has expired"
    limit = "max_label_delay" if joined.first_label_ms is None else "revision_horizon of the first label"
    return f"event time {fact.event_time_ms} is past {joined.until_ms}, the {limit} of its prediction"
