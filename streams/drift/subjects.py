"""What drift is measured of: every feature, the prediction and the label, each against its reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.reference import CategoricalReference, FeatureReference, NumericReference
from streams.drift.distances import (
    chi_squared_p,
    jensen_shannon,
    kolmogorov_smirnov,
    kolmogorov_smirnov_p,
    psi,
    wasserstein,
)
from streams.panes import COARSE, FeatureSlots, PanePlan
from streams.reference import coarse_edges
from streams.sketches import bin_centres

Counts = NDArray[np.int64]
DriftKind = Literal["data-drift", "prediction-drift", "label-drift"]


@dataclass(frozen=True)
class Subject:
    """One thing that may drift.

    Parameters
    ----------
    name : str
        ``feature:NAME``, ``prediction`` or ``label``.
    kind : str
        Kind of its observations.
    reference : array of int
        Counts of the reference by bin.
    missing : int
        Missing values of the reference.
    centres : array of float or None
        Typical value by bin; None for categories.
    scale : float
        Standard deviation of the reference's numbers.
    slots : FeatureSlots or None
        Of a feature.
    """

    name: str
    kind: DriftKind
    reference: Counts
    missing: int = 0
    centres: NDArray[np.float64] | None = None
    scale: float = 1.0
    slots: FeatureSlots | None = None
    groups: NDArray[np.int64] | None = None
    """Prediction scores are counted finer than they are compared: bin of the comparison by fine bin."""

    @property
    def reference_n(self) -> int:
        """Values the reference holds."""
        return int(self.reference.sum())

    @property
    def bins(self) -> int:
        """Bins that the reference fills."""
        return max(int((self.reference > 0).sum()), 2)


def subjects(plan: PanePlan) -> tuple[Subject, ...]:
    """Subjects of a plan: features in the specification's order, the prediction, the label."""
    out = [_feature(plan, name, slots) for name, slots in plan.features.items()]
    out.append(_prediction(plan))
    out.append(_labels(plan))
    return tuple(subject for subject in out if subject.reference_n > 0)


def _feature(plan: PanePlan, name: str, slots: FeatureSlots) -> Subject:
    reference = plan.reference.features[name]
    return Subject(
        f"feature:{name}",
        "data-drift",
        _counts(reference),
        reference.missing,
        bin_centres(reference) if isinstance(reference, NumericReference) else None,
        reference.std if isinstance(reference, NumericReference) else 1.0,
        slots,
    )


def _counts(reference: FeatureReference) -> Counts:
    if isinstance(reference, CategoricalReference):
        return np.array([*reference.counts, reference.other], dtype=np.int64)
    return np.array(reference.counts, dtype=np.int64)


def _prediction(plan: PanePlan) -> Subject:
    scores = plan.reference.scores
    if scores is None or not sum(scores.counts):
        return Subject("prediction", "prediction-drift", _counts(plan.reference.predictions))
    edges = coarse_edges(scores)
    coarse = np.searchsorted(edges, [scores.minimum, *scores.edges], side="right")
    fine = np.searchsorted(edges, [-np.inf, *plan.score_edges], side="right")
    size = len(edges) + 1
    weight = np.asarray(scores.counts, dtype=np.float64)
    centre = np.bincount(coarse, weights=bin_centres(scores) * weight, minlength=size)
    return Subject(
        "prediction",
        "prediction-drift",
        np.bincount(coarse, weights=weight, minlength=size).astype(np.int64),
        centres=np.maximum.accumulate(centre / np.maximum(np.bincount(coarse, weights=weight, minlength=size), 1.0)),
        scale=scores.std,
        groups=fine.astype(np.int64),
    )


def _labels(plan: PanePlan) -> Subject:
    reference = plan.reference.labels
    if isinstance(reference, NumericReference):
        return Subject("label", "label-drift", _counts(reference), centres=bin_centres(reference), scale=reference.std)
    return Subject("label", "label-drift", _counts(reference))


def observed(plan: PanePlan, subject: Subject, counts: Counts) -> Counts:
    """A window's counts of a subject, in the bins of its reference."""
    if subject.slots is not None:
        return counts[subject.slots.bins]
    if subject.name == "prediction":
        if subject.groups is None:
            return counts[plan.slots["predictions"]]
        fine = counts[plan.slots["scores"]]
        return np.bincount(subject.groups, weights=fine, minlength=len(subject.reference)).astype(np.int64)
    if plan.task == "regression":
        return counts[plan.slots["labels"]]
    if plan.task == "multiclass":
        return counts[plan.slots["truth"]]
    side = len(plan.classes) + 1
    return np.asarray(counts[plan.slots["confusion"]].reshape(side, side).sum(axis=1), dtype=np.int64)


def statistics(subject: Subject, counts: Counts, window: Counts) -> dict[str, float | None]:
    """Every statistic of a subject in a window.

    Parameters
    ----------
    counts : array of int
        From `observed`.
    window : array of int
        All counters of the window, for missing, invalid and out-of-range values of features.

    Returns
    -------
    dict of str to float or None
        ``psi``, ``jensen_shannon``; of numbers ``ks``, ``ks_p``, ``wasserstein``; of categories ``chi2_p``; of features
        also ``missing_rate``, ``invalid_rate``, ``out_of_range_rate`` and ``mean_shift`` (in standard deviations), or
        ``new_rate``.
    """
    n = int(counts.sum())
    out: dict[str, float | None] = {}
    if n == 0:
        out = {"psi": None, "jensen_shannon": None}
    else:
        out["psi"] = psi(counts, subject.reference)
        out["jensen_shannon"] = jensen_shannon(counts, subject.reference)
        if subject.centres is None:
            out["chi2_p"] = chi_squared_p(counts, subject.reference)
        else:
            distance = kolmogorov_smirnov(counts, subject.reference)
            out["ks"] = distance
            out["ks_p"] = kolmogorov_smirnov_p(distance, n, subject.reference_n)
            out["wasserstein"] = wasserstein(counts, subject.reference, subject.centres, subject.scale)
    if subject.slots is not None:
        out.update(_of_feature(subject, subject.slots, n, window))
    return out


def _of_feature(subject: Subject, slots: FeatureSlots, n: int, window: Counts) -> dict[str, float | None]:
    missing, invalid = int(window[slots.missing]), int(window[slots.invalid])
    everything = n + missing + invalid
    if not everything:
        return {"missing_rate": None}
    out: dict[str, float | None] = {"missing_rate": missing / everything, "invalid_rate": invalid / everything}
    if not slots.numeric:
        out["new_rate"] = int(window[slots.bins.stop - 1]) / n if n else None
        return out
    out["out_of_range_rate"] = (int(window[slots.low]) + int(window[slots.high])) / n if n else None
    # In standard deviations from the reference's mean: a plain mean would need the reference to be read.
    out["mean_shift"] = int(window[slots.total]) / COARSE / n if n else None
    return out
