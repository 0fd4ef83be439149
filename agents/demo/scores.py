"""Live quality and that of the frozen first version, exact, from the log and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Metrics = dict[str, float | None]


def exact_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Metrics:
    """ROC AUC, Brier score and accuracy of binary scores; None where a metric is not defined.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        0 or 1.
    scores : ndarray of float, shape (n,)
        Probability of class 1.
    """
    from sklearn.metrics import roc_auc_score

    if len(labels) == 0:
        return {"roc_auc": None, "brier": None, "accuracy": None}
    both = 0 < labels.sum() < len(labels)
    return {
        "roc_auc": float(roc_auc_score(labels, scores)) if both else None,
        "brier": float(np.mean((scores - labels) ** 2)),
        "accuracy": float(np.mean((scores >= threshold) == labels)),
    }


@dataclass
class ScoreBook:
    """Scores by prediction id of what was live and of the frozen version; labels join them by id."""

    threshold: float
    live: dict[str, float] = field(default_factory=dict)
    frozen: dict[str, float] = field(default_factory=dict)

    def metrics(self, labels: Mapping[str, object], ids: list[str] | None = None) -> tuple[Metrics, Metrics, int]:
        """(live, frozen, n) over the labelled ids, both on exactly the same rows."""
        rows = [i for i in (labels if ids is None else ids) if i in self.live and i in self.frozen and i in labels]
        truth = np.array([1 if labels[i] else 0 for i in rows])
        live = np.array([self.live[i] for i in rows])
        frozen = np.array([self.frozen[i] for i in rows])
        return exact_metrics(truth, live, self.threshold), exact_metrics(truth, frozen, self.threshold), len(rows)
