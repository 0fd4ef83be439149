"""The accounting of one partition: every record that was read is counted in exactly one place.

::

    records of predictions  = predictions + predictions.duplicate + predictions.dead + predictions.skipped + heartbeats
    predictions             = pending + labelled + expired
    records of ground-truth = labels + heartbeats
    labels                  = labels.matched + .duplicate + .late + .orphaned + .waiting + .dead

`revised` (predictions whose label changed at least once), `withdrawn` (labels taken back) and `labels.revised` (matched
labels that corrected an earlier one) are attributes of the above. All but `pending`, `labelled` and `labels.waiting`
only grow; `labelled` goes down where a label is withdrawn.
"""

from __future__ import annotations

from typing import Final

PREDICTIONS: Final = "predictions"
PENDING: Final = "pending"
LABELLED: Final = "labelled"
REVISED: Final = "revised"
EXPIRED: Final = "expired"
WITHDRAWN: Final = "withdrawn"
PREDICTIONS_DUPLICATE: Final = "predictions.duplicate"
PREDICTIONS_DEAD: Final = "predictions.dead"
PREDICTIONS_SKIPPED: Final = "predictions.skipped"
LABELS: Final = "labels"
LABELS_MATCHED: Final = "labels.matched"
LABELS_DUPLICATE: Final = "labels.duplicate"
LABELS_LATE: Final = "labels.late"
LABELS_ORPHANED: Final = "labels.orphaned"
LABELS_WAITING: Final = "labels.waiting"
LABELS_REVISED: Final = "labels.revised"
LABELS_DEAD: Final = "labels.dead"
HEARTBEATS: Final = "heartbeats"

NAMES: Final = (
    PREDICTIONS,
    PENDING,
    LABELLED,
    REVISED,
    EXPIRED,
    WITHDRAWN,
    PREDICTIONS_DUPLICATE,
    PREDICTIONS_DEAD,
    PREDICTIONS_SKIPPED,
    LABELS,
    LABELS_MATCHED,
    LABELS_DUPLICATE,
    LABELS_LATE,
    LABELS_ORPHANED,
    LABELS_WAITING,
    LABELS_REVISED,
    LABELS_DEAD,
    HEARTBEATS,
)


def zero() -> dict[str, int]:
    """All counters at 0."""
    return dict.fromkeys(NAMES, 0)
