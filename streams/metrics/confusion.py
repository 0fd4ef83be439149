"""Metrics of hard decisions from a confusion matrix (rows truth, columns prediction; the last class: none known)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


def accuracy(matrix: Matrix) -> float | None:
    """Share of right decisions; a truth that is none of the known classes is never right."""
    total = int(matrix.sum())
    return float(np.trace(matrix[:-1, :-1]) / total) if total else None


def precision(matrix: Matrix, of: int = 1) -> float | None:
    """Share of the predictions of class `of` that are right; None where there are none."""
    predicted = int(matrix[:, of].sum())
    return float(matrix[of, of] / predicted) if predicted else None


def recall(matrix: Matrix, of: int = 1) -> float | None:
    """Share of class `of` that was found; None where there is none."""
    actual = int(matrix[of].sum())
    return float(matrix[of, of] / actual) if actual else None


def f1(matrix: Matrix, of: int = 1) -> float | None:
    """Harmonic mean of precision and recall of class `of`."""
    both = int(matrix[of].sum() + matrix[:, of].sum())
    return float(2 * matrix[of, of] / both) if both else None


def averaged(matrix: Matrix, name: str, *, weighted: bool = False) -> float | None:
    """Average over the classes that occur, as truth or prediction; undefined ones count 0 (scikit-learn's rule).

    Parameters
    ----------
    name : {"precision", "recall", "f1"}
    weighted : bool
        By how often a class is the truth.
    """
    truth = matrix.sum(axis=1).astype(np.float64)
    predicted = matrix.sum(axis=0).astype(np.float64)
    right = np.diag(matrix).astype(np.float64)
    right[-1] = 0.0
    present = (truth + predicted) > 0
    if not present.any():
        return None
    below = {"precision": predicted, "recall": truth, "f1": (truth + predicted) / 2}[name]
    values = np.divide(right, below, out=np.zeros_like(right), where=below > 0)[present]
    if not weighted:
        return float(values.mean())
    return float((values * truth[present]).sum() / truth.sum()) if truth.sum() else None


def cost(matrix: Matrix, *, false_negative: float, false_positive: float) -> float | None:
    """Mean cost of a decision of a binary model."""
    total = int(matrix.sum())
    if not total:
        return None
    missed = int(matrix[1].sum() - matrix[1, 1])
    alarmed = int(matrix[0].sum() - matrix[0, 0])
    return (false_negative * missed + false_positive * alarmed) / total
