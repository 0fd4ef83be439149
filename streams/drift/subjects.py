"""What drift is measured of: every feature, the prediction and the label, each against its reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.reference import CategoricalReference, FeatureReference, NumericReference
from schemas.specification import DriftMeasure
from streams.drift.measures import measure_of, noise_of
from streams.panes import FeatureSlots, PanePlan
from streams.sketches import bin_centres, coarse_edges

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

    measure: DriftMeasure = "psi"
    """Distance that decides about its drift."""
    noise: tuple[float, float] = (1.0, 1.0)
    """What chance adds to it (`streams.drift.measures.noise_of`)."""

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Distances between the bins' centres, in standard deviations of the reference; empty without an order."""
        if self.centres is None or self.scale <= 0:
            return np.zeros(0)
        return np.asarray(np.diff(self.centres) / self.scale)

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
    return tuple(with_noise(plan, subject) for subject in out if subject.reference_n > 0)


def with_noise(plan: PanePlan, subject: Subject) -> Subject:
    """The subject with the measure that decides about it, and what chance adds to that."""
    measure = measure_of(plan.spec.alarms.drift, ordered=len(subject.gaps) > 0)
    return replace(
        subject, measure=measure, noise=noise_of(measure, subject.reference.astype(np.float64), subject.gaps)
    )


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


def positions(plan: PanePlan, subject: Subject) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a subject's counters in the plan's layout, and the bin of its reference that each belongs to."""
    if subject.slots is not None:
        where = subject.slots.bins
    elif subject.name == "prediction":
        where = plan.slots["predictions" if subject.groups is None else "scores"]
    elif plan.task == "binary":
        where = plan.slots["confusion"]
    else:
        where = plan.slots["labels" if plan.task == "regression" else "truth"]
    at = np.arange(where.start, where.stop, dtype=np.int64)
    if subject.groups is not None:
        return at, subject.groups
    side = len(plan.classes) + 1
    bins = np.arange(len(at), dtype=np.int64)
    return at, bins // side if where == plan.slots.get("confusion") else bins
