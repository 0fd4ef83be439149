"""The join as one would write it with all records at hand: no watermark, no batches, no state."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.events import GroundTruth, Prediction
from streams.panes import PanePlan

Deltas = Counter[tuple[Any, ...]]


def expected(
    plans: Mapping[tuple[str, int], PanePlan], predictions: Sequence[Prediction], truths: Sequence[GroundTruth | str]
) -> tuple[dict[tuple[Any, ...], int], Counter[str]]:
    """Contributions and totals once event time has passed everything.

    `predictions` and `truths` are in the order of their topics; a string among the latter is the tombstone of that id.
    """
    deltas: Deltas = Counter()
    total: Counter[str] = Counter()
    of_id: dict[str, list[Prediction]] = defaultdict(list)
    for p in predictions:
        same = [q for q in of_id[p.prediction_id] if (q.model, q.version) == (p.model, p.version)]
        if (p.model, p.version) not in plans:
            total["predictions.skipped"] += 1
        elif same:
            total["predictions.duplicate" if same == [p] else "predictions.dead"] += 1
        else:
            of_id[p.prediction_id].append(p)
    labels_of: dict[str, list[GroundTruth | None]] = defaultdict(list)
    for truth in truths:
        if isinstance(truth, str):
            labels_of[truth].append(None)
        else:
            labels_of[truth.prediction_id].append(truth)
    total["predictions"] = sum(map(len, of_id.values()))
    total["labels"] = len(truths)
    for key in of_id.keys() | labels_of.keys():
        taken = _taken(plans, of_id[key], labels_of[key], total)
        for p in of_id[key]:
            _contribute(plans[p.model, p.version], p, taken, deltas, total)
    return {key: n for key, n in deltas.items() if n}, +total


def _taken(
    plans: Mapping[tuple[str, int], PanePlan],
    predictions: list[Prediction],
    labels: list[GroundTruth | None],
    total: Counter[str],
) -> list[tuple[int, int, Any]]:
    """(event time, revision, label) of the labels that the first prediction takes."""
    # Labels of another prediction of the id, or of none: they wait for it in vain.
    if not predictions:
        total["labels.orphaned"] += len(labels)
        return []
    first = predictions[0]
    horizon_ms = max(plan.revision_horizon_ms for plan in plans.values())
    plan = plans[first.model, first.version]
    taken: list[tuple[int, int, Any]] = []
    for label in labels:
        if label is None:
            if not taken:
                total["labels.orphaned"] += 1
                continue
            new = (taken[-1][0], -(2**62), None)
        else:
            new = (label.event_time_ms, label.revision, label.label)
        limit = (
            max(taken[0][0], first.event_time_ms) + plan.revision_horizon_ms
            if taken
            else first.event_time_ms + plan.max_label_delay_ms
        )
        beyond = new[0] > first.event_time_ms + plan.max_label_delay_ms + plan.revision_horizon_ms
        before = label is not None and new[0] + horizon_ms < first.event_time_ms
        if beyond or before:
            total["labels.orphaned"] += 1
        elif taken and (new == taken[-1] or (label is not None and new[1] < taken[-1][1])):
            total["labels.duplicate"] += 1
        elif new[2] is not None and not plan.accepts(new[2]):
            total["labels.dead"] += 1
        elif new[0] > limit:
            total["labels.late"] += 1
        else:
            total["labels.matched"] += 1
            total["labels.revised"] += bool(taken)
            taken.append(new)
    return taken


def _contribute(
    plan: PanePlan, p: Prediction, taken: list[tuple[int, int, Any]], deltas: Deltas, total: Counter[str]
) -> None:
    compact = plan.compact(p)
    pane = p.event_time_ms // plan.pane_ms * plan.pane_ms

    def put(effect_ms: int, contribution: Mapping[int, int], sign: int = 1) -> None:
        for segment in compact.segments:
            for position, n in contribution.items():
                effect = effect_ms // plan.pane_ms * plan.pane_ms
                deltas[p.model, p.version, segment, pane, effect, position] += sign * n

    for segment in compact.segments:
        for position, n in plan.traffic(p, segment).items():
            deltas[p.model, p.version, segment, pane, pane, position] += n
    current, first_ms, until, effect = None, None, p.event_time_ms + plan.max_label_delay_ms, p.event_time_ms
    seen = revised = False
    for at, _, label in taken:
        if at > until or (label is not None and not plan.accepts(label)):
            continue
        if first_ms is None:
            first_ms, until = at, max(at, p.event_time_ms) + plan.revision_horizon_ms
        effect, delay = max(effect, at), first_ms - p.event_time_ms
        if current is not None:
            put(effect, plan.labelled(compact, current, delay), -1)
        if label is not None:
            put(effect, plan.labelled(compact, label, delay))
        total["withdrawn"] += current is not None and label is None
        revised |= seen and current != label
        current, seen = label, True
    total["revised"] += revised
    total["labelled"] += current is not None
    total["expired"] += current is None
    if current is None:
        put(max(until, effect), plan.expired(compact))
