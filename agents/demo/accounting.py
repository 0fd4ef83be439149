"""The proof: a plain join of what the topics hold, beside what the monitoring agent counted.

Nothing here is shared with the streaming join. It reads the committed log, applies the rules of the join in the most
direct way and compares id by id and count by count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.events import GroundTruth, Prediction

Identity = tuple[str, int | str, str]


@dataclass
class Expected:
    """Where every identity and label has to be, by the log alone."""

    state: dict[Identity, str] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    conflicts: int = 0
    revised: int = 0
    revised_ids: set[str] = field(default_factory=set)
    final_label: dict[str, object] = field(default_factory=dict)

    def count(self, state: str) -> int:
        return sum(1 for value in self.state.values() if value == state)


def expected(
    predictions: Iterable[Prediction],
    truths: Iterable[GroundTruth],
    *,
    watermark_ms: int,
    max_label_delay_ms: int,
    revision_horizon_ms: int,
) -> Expected:
    """Join the whole log at once.

    Parameters
    ----------
    predictions, truths : iterable
        Decodable records in offset order per key.
    watermark_ms : int
        Event time that monitoring has reached on every partition.
    """
    result = Expected()
    first: dict[Identity, Prediction] = {}
    by_id: dict[str, list[Identity]] = {}
    for prediction in predictions:
        identity = (prediction.model, prediction.version, prediction.prediction_id)
        if identity in first:
            same = first[identity] == prediction
            result.duplicates += same
            result.conflicts += not same
            continue
        first[identity] = prediction
        by_id.setdefault(prediction.prediction_id, []).append(identity)
    labelled_at: dict[str, int] = {}
    current: dict[str, GroundTruth] = {}
    for truth in truths:
        identities = by_id.get(truth.prediction_id)
        if not identities:
            waits_until = truth.event_time_ms + revision_horizon_ms
            result.labels["orphaned" if watermark_ms >= waits_until else "waiting"] += 1
            continue
        event_time = first[identities[0]].event_time_ms
        known = current.get(truth.prediction_id)
        if known is None:
            if truth.event_time_ms > event_time + max_label_delay_ms:
                result.labels["late"] += 1
            else:
                result.labels["matched"] += 1
                labelled_at[truth.prediction_id] = truth.event_time_ms
                current[truth.prediction_id] = truth
        elif truth.revision < known.revision or truth == known:
            result.labels["duplicate"] += 1
        elif truth.event_time_ms > labelled_at[truth.prediction_id] + revision_horizon_ms:
            result.labels["late"] += 1
        else:
            result.labels["matched"] += 1
            if truth.label != known.label:
                result.revised += 1
                result.revised_ids.add(truth.prediction_id)
            current[truth.prediction_id] = truth
    for identity, prediction in first.items():
        if prediction.prediction_id in current:
            result.state[identity] = "labelled"
        elif watermark_ms > prediction.event_time_ms + max_label_delay_ms:
            result.state[identity] = "expired"
        else:
            result.state[identity] = "pending"
    result.final_label = {key: truth.label for key, truth in current.items()}
    return result


def compare(expectation: Expected, totals: Mapping[str, int]) -> list[str]:
    """Differences between the plain join and the agent's own totals, in words; empty where they agree."""
    wanted = {
        "predictions": len(expectation.state),
        "pending": expectation.count("pending"),
        "labelled": expectation.count("labelled"),
        "expired": expectation.count("expired"),
        "predictions.duplicate": expectation.duplicates,
        "labels.late": expectation.labels["late"],
        "labels.orphaned": expectation.labels["orphaned"],
        "labels.matched": expectation.labels["matched"],
        "labels.duplicate": expectation.labels["duplicate"],
    }
    return [
        f"{name}: the log says {want}, monitoring counted {totals.get(name, 0)}"
        for name, want in wanted.items()
        if totals.get(name, 0) != want
    ]
