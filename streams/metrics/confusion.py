"""Metrics of hard decisions, from counts by class (the last class: none of the known)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]
Rate = Literal["precision", "recall", "f1"]


def accuracy(matrix: Matrix) -> float | None:
    """Share of right decisions of a binary model (rows truth, columns prediction)."""
    total = int(matrix.sum())
    return float(np.trace(matrix[:-1, :-1]) / total) if total else None


def cell(matrix: Matrix, row: int, column: int) -> float | None:
    """Events of a truth and a decision; what is decided for neither class counts against the truth."""
    if not int(matrix.sum()):
        return None
    count = int(matrix[row, column])
    # Truth 0 decided as none is not found to be 0, truth 1 not found to be 1: both are on the wrong side.
    return float(count + int(matrix[row, 2])) if row != column else float(count)


def precision(matrix: Matrix) -> float | None:
    """Share of the positive decisions that are right; None where there are none."""
    predicted = int(matrix[:, 1].sum())
    return float(matrix[1, 1] / predicted) if predicted else None


def recall(matrix: Matrix) -> float | None:
    """Share of the positives that were found; None where there are none."""
    actual = int(matrix[1].sum())
    return float(matrix[1, 1] / actual) if actual else None


def f1(matrix: Matrix) -> float | None:
    """Harmonic mean of precision and recall."""
    both = int(matrix[1].sum() + matrix[:, 1].sum())
    return float(2 * matrix[1, 1] / both) if both else None


class ByClass(NamedTuple):
    """Counts by class: of the truth, of the decisions (both with one more for none of the known) and of the hits."""

    truth: Matrix
    decided: Matrix
    hits: Matrix

    def below(self, name: Rate) -> NDArray[np.float64]:
        """What hits are divided by."""
        if name == "precision":
            return self.decided.astype(np.float64)
        if name == "recall":
            return self.truth.astype(np.float64)
        return (self.truth + self.decided) / 2


def share_of_hits(classes: ByClass) -> float | None:
    """Accuracy; a truth that is none of the known classes is never right."""
    n = int(classes.truth.sum())
    return int(classes.hits.sum()) / n if n > 0 else None


def rate(classes: ByClass, name: Rate, of: int) -> float | None:
    """Precision, recall or F1 of one class; None where the class does not occur in what hits are divided by."""
    below = float(classes.below(name)[of])
    return int(classes.hits[of]) / below if below > 0 else None


def averaged(classes: ByClass, name: Rate, *, weighted: bool = False) -> float | None:
    """Average over the classes that occur, as truth or decision; undefined ones count 0 (scikit-learn's rule).

    Parameters
    ----------
    weighted : bool
        By how often a class is the truth.

    Notes
    -----
    All classes that the model does not know count as one, of which nothing is found.
    """
    present = (classes.truth + classes.decided) > 0
    if not present.any():
        return None
    below = classes.below(name)
    hits = np.append(classes.hits, 0).astype(np.float64)
    values = np.divide(hits, below, out=np.zeros_like(hits), where=below > 0)[present]
    if not weighted:
        return float(values.mean())
    weights = classes.truth[present]
    return float((values * weights).sum() / weights.sum()) if weights.sum() > 0 else None


def cost(matrix: Matrix, *, false_negative: float, false_positive: float) -> float | None:
    """Mean cost of a decision of a binary model."""
    total = int(matrix.sum())
    if not total:
        return None
    missed = int(matrix[1].sum() - matrix[1, 1])
    alarmed = int(matrix[0].sum() - matrix[0, 0])
    return (false_negative * missed + false_positive * alarmed) / total
