"""What must come out of the join, as one would work it out by hand with all records on the table.

No batches, no watermark, no state: the whole log of a partition is given, and event time has passed everything. It
holds for any batching and any interleaving of the two topics, as long as disorder stays within the grace. It shares
no code with `streams.join`; of `streams.panes` it uses only what one event contributes.

A record has one fate. Predictions: ``labelled``, ``expired``, ``duplicate``, ``skipped`` (not registered). Labels:
``matched``, ``duplicate``, ``late``, ``orphaned``. Both: ``heartbeat``, ``dead: <reason>``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.codec import decode_ground_truth, decode_heartbeat, decode_prediction, encode, is_heartbeat
from schemas.errors import DecodeError
from schemas.events import GroundTruth, Label, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.records import Record
from streams.panes import PanePlan

Plans = Mapping[tuple[str, int], PanePlan]
Log = Mapping[str, Sequence[Record]]
Where = tuple[str, int]
"""Topic and offset."""
WITHDRAWN_BY_TOMBSTONE = -(2**62)


class Told(NamedTuple):
    """One label of one id. `at_ms` and `revision` None: a tombstone, which has neither."""

    offset: int
    at_ms: int | None
    revision: int
    label: Label | None


class Taken(NamedTuple):
    """A label that counted when it came."""

    at_ms: int
    revision: int
    label: Label | None


@dataclass
class Verdict:
    """What becomes of a log.

    Parameters
    ----------
    fates : dict
        By topic and offset.
    counters : Counter
        (model, version, segment, pane, pane of the effect, position) → sum.
    revised, withdrawn, corrections : int
        Predictions whose label changed; labels taken back; labels that corrected one before.
    """

    fates: dict[Where, str] = field(default_factory=dict)
    counters: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    revised: int = 0
    withdrawn: int = 0
    corrections: int = 0

    @property
    def deltas(self) -> dict[tuple[Any, ...], int]:
        """Counters without zeros."""
        return {key: n for key, n in self.counters.items() if n}

    @property
    def dead(self) -> set[tuple[str, int, str]]:
        """(topic, offset, reason) of every dead letter."""
        reasons = {where: fate.removeprefix("dead: ") for where, fate in self.fates.items()}
        return {(*where, reasons[where]) for where, fate in self.fates.items() if fate == "late" or "dead: " in fate}

    @property
    def totals(self) -> dict[str, int]:
        """The accounting that `streams.join.totals` describes, zeros left out."""
        count: Counter[str] = Counter()
        for (topic, _), fate in self.fates.items():
            name = "dead" if fate.startswith("dead") else fate
            if name == "heartbeat":
                count["heartbeats"] += 1
                continue
            if topic == PREDICTIONS:
                lives = name in {"labelled", "expired"}
                count["predictions"] += lives
                count[name if lives else f"predictions.{name}"] += 1
            else:
                count["labels"] += 1
                count[f"labels.{name}"] += 1
        count["revised"], count["withdrawn"], count["labels.revised"] = self.revised, self.withdrawn, self.corrections
        return dict(+count)


def judge(log: Log, plans: Plans, *, future_ms: int, now_ms: int) -> Verdict:
    """Judge the whole log of one partition.

    Parameters
    ----------
    log : mapping of str to sequence of Record
        Both topics from their beginning.
    plans : mapping
        Registered versions; they do not change.
    future_ms : int
        How far an event may be ahead of its record's timestamp.
    now_ms : int
        Stands in for timestamps that are missing.
    """
    verdict = Verdict()
    predictions: dict[str, list[tuple[Record, Prediction]]] = defaultdict(list)
    labels: dict[str, list[Told]] = defaultdict(list)
    for record in log[PREDICTIONS]:
        try:
            if _is_heartbeat(record, verdict, future_ms, now_ms):
                continue
            prediction = decode_prediction(record.value or b"")
            _not_from_the_future(record, prediction.event_time_ms, future_ms, now_ms)
        except DecodeError as error:
            verdict.fates[PREDICTIONS, record.offset] = f"dead: {error.reason}"
            continue
        verdict.fates[PREDICTIONS, record.offset] = _arrive(record, prediction, plans, predictions)
    for record in log[GROUND_TRUTH]:
        try:
            if _is_heartbeat(record, verdict, future_ms, now_ms):
                continue
            key, told = _told(record)
            _not_from_the_future(record, told.at_ms or 0, future_ms, now_ms)
        except DecodeError as error:
            verdict.fates[GROUND_TRUTH, record.offset] = f"dead: {error.reason}"
            continue
        labels[key].append(told)
    longest = max((plan.revision_horizon_ms for plan in plans.values()), default=0)
    for key in predictions.keys() | labels.keys():
        taken = _take(predictions[key], labels[key], plans, longest, verdict)
        for record, prediction in predictions[key]:
            plan = plans[prediction.model, prediction.version]
            ended = _contribute(plan, prediction, taken, verdict)
            verdict.fates[PREDICTIONS, record.offset] = ended
    return verdict


def _is_heartbeat(record: Record, verdict: Verdict, future_ms: int, now_ms: int) -> bool:
    if not is_heartbeat(record.headers):
        return False
    heartbeat = decode_heartbeat(record.value or b"")
    _not_from_the_future(record, heartbeat.event_time_ms, future_ms, now_ms)
    verdict.fates[record.topic, record.offset] = "heartbeat"
    return True


def _not_from_the_future(record: Record, at_ms: int, future_ms: int, now_ms: int) -> None:
    written_ms = record.timestamp_ms if record.timestamp_ms > 0 else now_ms
    if at_ms > written_ms + future_ms:
        raise DecodeError("from the future", reason="future")


def _arrive(
    record: Record, prediction: Prediction, plans: Plans, predictions: dict[str, list[tuple[Record, Prediction]]]
) -> str:
    """A prediction's fate as far as it is known when it comes; `pending`: it lives."""
    identity = (prediction.model, prediction.version)
    if identity not in plans:
        return "skipped"
    known = predictions[prediction.prediction_id]
    for before, other in known:
        if (other.model, other.version) == identity:
            return "duplicate" if before.value == record.value else "dead: conflicting-prediction"
    if not plans[identity].accepts_prediction(prediction):
        return "dead: prediction-type"
    known.append((record, prediction))
    return "pending"


def _told(record: Record) -> tuple[str, Told]:
    if record.value is None:
        if not record.key:
            raise DecodeError("whose?", reason="empty")
        try:
            return record.key.decode(), Told(record.offset, None, WITHDRAWN_BY_TOMBSTONE, None)
        except UnicodeDecodeError as error:
            raise DecodeError("not text", reason="schema") from error
    truth = decode_ground_truth(record.value)
    if truth.revision <= WITHDRAWN_BY_TOMBSTONE:
        raise DecodeError("kept for tombstones", reason="schema")
    return truth.prediction_id, Told(record.offset, truth.event_time_ms, truth.revision, truth.label)


def _take(
    predictions: list[tuple[Record, Prediction]],
    labels: list[Told],
    plans: Plans,
    longest_horizon_ms: int,
    verdict: Verdict,
) -> list[Taken]:
    """The labels that count, in order. The first prediction of the id decides, whatever version made it."""
    taken: list[Taken] = []
    for told in labels:
        verdict.fates[GROUND_TRUTH, told.offset] = (
            _decide(told, predictions[0][1], taken, plans, longest_horizon_ms) if predictions else "orphaned"
        )
    verdict.corrections += max(len(taken) - 1, 0)
    return taken


def _decide(told: Told, first: Prediction, taken: list[Taken], plans: Plans, longest_horizon_ms: int) -> str:
    """A label's fate; appends it to `taken` where it counts."""
    plan = plans[first.model, first.version]
    born, delay, horizon = first.event_time_ms, plan.max_label_delay_ms, plan.revision_horizon_ms
    if told.at_ms is None:
        # Takes back what stands, whenever it comes; the time is that of the label it takes back.
        if not taken:
            return "orphaned"
        new = Taken(taken[-1].at_ms, WITHDRAWN_BY_TOMBSTONE, None)
    else:
        new = Taken(told.at_ms, told.revision, told.label)
        belongs_to_a_later_one = new.at_ms > born + delay + horizon
        belongs_to_an_earlier_one = new.at_ms + longest_horizon_ms < born
        if belongs_to_a_later_one or belongs_to_an_earlier_one:
            return "orphaned"
        if taken and new.revision < taken[-1].revision:
            return "duplicate"
    if taken and new == taken[-1]:
        return "duplicate"
    if new.label is not None and not plan.accepts(new.label):
        return "dead: label-type"
    until = max(taken[0].at_ms, born) + horizon if taken else born + delay
    if told.at_ms is not None and told.at_ms > until:
        return "late"
    taken.append(new)
    return "matched"


def _contribute(plan: PanePlan, prediction: Prediction, taken: list[Taken], verdict: Verdict) -> str:
    """Count one prediction with the labels that reach it; how it ends."""
    born = prediction.event_time_ms
    compact = plan.compact(prediction)

    def put(segment: str, effect_ms: int, contribution: Mapping[int, int], sign: int = 1) -> None:
        pane, effect = (at // plan.pane_ms * plan.pane_ms for at in (born, effect_ms))
        for position, n in contribution.items():
            verdict.counters[prediction.model, prediction.version, segment, pane, effect, position] += sign * n

    for segment in compact.segments:
        put(segment, born, plan.traffic(prediction, segment))
    label: Label | None = None
    first_ms: int | None = None
    until, effect, revised = born + plan.max_label_delay_ms, born, False
    for new in taken:
        if new.at_ms > until or (new.label is not None and not plan.accepts(new.label)):
            continue  # another version's label
        if first_ms is None:
            first_ms, until = new.at_ms, max(new.at_ms, born) + plan.revision_horizon_ms
        else:
            revised = revised or new.label != label
        effect = max(effect, new.at_ms)
        for segment in compact.segments:
            if label is not None:
                put(segment, effect, plan.labelled(compact, label, first_ms - born), -1)
            if new.label is not None:
                put(segment, effect, plan.labelled(compact, new.label, first_ms - born))
        verdict.withdrawn += label is not None and new.label is None
        label = new.label
    verdict.revised += revised
    if label is not None:
        return "labelled"
    for segment in compact.segments:
        put(segment, max(until, effect), plan.expired(compact))
    return "expired"


# ------------------------------------------------------------------------------------------------ shorthands


def log_of(predictions: Sequence[Prediction], truths: Sequence[GroundTruth | str], now_ms: int) -> Log:
    """A log of events; a string among the truths is the tombstone of that id."""
    return {
        PREDICTIONS: [
            Record(PREDICTIONS, 0, offset, p.prediction_id.encode(), encode(p), None, now_ms)
            for offset, p in enumerate(predictions)
        ],
        GROUND_TRUTH: [
            Record(GROUND_TRUTH, 0, offset, truth.encode(), None, None, now_ms)
            if isinstance(truth, str)
            else Record(GROUND_TRUTH, 0, offset, truth.prediction_id.encode(), encode(truth), None, now_ms)
            for offset, truth in enumerate(truths)
        ],
    }


def expected(
    plans: Plans, predictions: Sequence[Prediction], truths: Sequence[GroundTruth | str]
) -> tuple[dict[tuple[Any, ...], int], Counter[str]]:
    """Contributions and totals of events that are all well-formed."""
    now_ms = 253_402_300_799_999
    verdict = judge(log_of(predictions, truths, now_ms), plans, future_ms=0, now_ms=now_ms)
    return verdict.deltas, Counter(verdict.totals)


class Coverage(NamedTuple):
    """What a window holds in the end."""

    predicted: int
    labelled: int


def windows(plans: Plans, verdict: Verdict) -> dict[tuple[Any, ...], tuple[Coverage, Counter[int]]]:
    """Every time window as it stands in the end, with its counters.

    Key: (model, version, segment, name, start, end). A window without a step is told where its last pane holds
    predictions and the segment has some within the window; one with a step wherever the segment has some.
    """
    panes: dict[tuple[Any, ...], Counter[int]] = defaultdict(Counter)
    for (model, version, segment, pane, _, position), n in verdict.counters.items():
        panes[model, version, segment, pane][position] += n
    found = {}
    for model, version, segment, _ in list(panes):
        plan = plans[model, version]
        at = {name: plan.slots[name].start for name in ("predicted", "labelled")}
        ends = {key[3] + plan.pane_ms for key, counts in panes.items() if key[:3] == (model, version, "")}
        for name, window in plan.spec.time_windows.items():
            every = window.step_ms
            reach = range(min(ends), max(ends) + window.length_ms, plan.pane_ms)
            for end in (when for when in reach if (when - window.offset_ms) % every == 0) if every else ends:
                total: Counter[int] = Counter()
                for start in range(end - window.length_ms, end, plan.pane_ms):
                    for position, n in panes.get((model, version, segment, start), Counter()).items():
                        total[position] += n
                if total[at["predicted"]] > 0:
                    key = (model, version, segment, name, end - window.length_ms, end)
                    found[key] = (Coverage(total[at["predicted"]], total[at["labelled"]]), total)
    return found
