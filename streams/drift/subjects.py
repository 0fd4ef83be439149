"""What drift is measured of: every feature, the prediction and the label, each against its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.reference import CategoricalReference, FeatureReference, NumericReference
from schemas.specification import DriftMeasure
from streams.drift.measures import measure_of, noise_of
from streams.drift.ordered import Ordered
from streams.panes import FeatureSlots, PanePlan
from streams.sketches import COARSE_BINS, bin_centres, coarse_edges, coarse_groups, coarsened

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
ORDERED_SCORES: Final = 20
"""Bins of equal shares of scores that KS and Wasserstein are measured by; others are added beyond the outer ones."""
OUTER: Final = (0.1, 0.3, 0.5, 0.75)
"""Where those end, as parts of the way from 0 or 1 to the outer quantile."""
DriftKind = Literal["data-drift", "prediction-drift", "label-drift"]


def cell_name(subject: str, segment: str) -> str:
    """Name of a subject in a segment.

    Examples
    --------
    >>> cell_name("feature:distance", "origin=JFK"), cell_name("prediction", "")
    ('feature:distance|origin=JFK', 'prediction')
    """
    return f"{subject}|{segment}" if segment else subject


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
    """Numbers are counted finer than they are compared: bin of the comparison by fine bin."""

    ordered: Ordered | None = None
    """What KS and Wasserstein are measured by; None: by the bins of the comparison."""
    measure: DriftMeasure = "psi"
    """Distance that decides about its drift."""
    segment: str = ""
    """Where it is watched; empty: overall."""
    noise: tuple[float, float] = (1.0, 1.0)
    """What chance adds to it (`streams.drift.measures.noise_of`)."""

    @property
    def key(self) -> str:
        """Its name where the reference keeps what it knows of it."""
        return cell_name(self.name, self.segment)

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
    noise = noise_of(measure, subject.reference.astype(np.float64), subject.gaps)
    if measure == "wasserstein" and subject.ordered is not None:
        noise = (subject.ordered.chance(), noise[1])
    return replace(subject, measure=measure, noise=noise)


def _feature(plan: PanePlan, name: str, slots: FeatureSlots) -> Subject:
    reference = plan.reference.features[name]
    if not isinstance(reference, NumericReference):
        return Subject(f"feature:{name}", "data-drift", _counts(reference), reference.missing, slots=slots)
    whole = coarsened(reference)
    sums = (slots.low, slots.high, slots.total, slots.first_total, slots.last_total)
    return Subject(
        f"feature:{name}",
        "data-drift",
        _counts(whole),
        reference.missing,
        bin_centres(whole),
        reference.std,
        slots,
        groups=None if whole is reference else coarse_groups(reference),
        ordered=_ordered(reference, np.arange(len(reference.counts)), sums),
    )


def _ordered(
    reference: NumericReference, groups: Counts, slots: tuple[int, int, int, int, int] | None = None
) -> Ordered | None:
    """None where the reference does not know what it takes."""
    if reference.std <= 0 or len(reference.means) != len(reference.counts):
        return None
    return Ordered(
        np.array(reference.counts, dtype=np.int64),
        (np.array(reference.edges) - reference.mean) / reference.std,
        (np.array(reference.means) - reference.mean) / reference.std,
        (reference.tails[0] / reference.std, reference.tails[1] / reference.std),
        groups,
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
    groups, counts, centres = _grouped(plan, scores, edges)
    return Subject(
        "prediction",
        "prediction-drift",
        counts.astype(np.int64),
        centres=np.maximum.accumulate(centres),
        scale=scores.std,
        groups=groups,
        ordered=_ordered_scores(plan, scores),
    )


def _grouped(plan: PanePlan, scores: NumericReference, edges: Sequence[float]) -> tuple[Counts, Floats, Floats]:
    """Bin of every counter of scores, and the reference's counts and typical values by bin (0 where it has none)."""
    coarse = np.searchsorted(edges, [scores.minimum, *scores.edges], side="right")
    fine = np.searchsorted(edges, [-np.inf, *plan.score_edges], side="right")
    weight = np.asarray(scores.counts, dtype=np.float64)
    counts = np.bincount(coarse, weights=weight, minlength=len(edges) + 1)
    centres = np.bincount(coarse, weights=bin_centres(scores) * weight, minlength=len(edges) + 1)
    return fine.astype(np.int64), counts.astype(np.float64), centres / np.maximum(counts, 1.0)


def _ordered_scores(plan: PanePlan, scores: NumericReference) -> Ordered | None:
    """Probabilities: of their bins, hundreds, so many as KS and Wasserstein need."""
    if scores.std <= 0 or plan.task == "regression" or len(scores.counts) <= COARSE_BINS:
        return None
    inner = coarse_edges(scores, ORDERED_SCORES)
    # Beyond the outer quantiles, too: no sums say where a window's scores lie there.
    outer = [part * inner[0] for part in OUTER] + [1 - part * (1 - inner[-1]) for part in OUTER]
    known = np.asarray(plan.score_edges)
    snapped = known[np.clip(np.searchsorted(known, outer), 0, len(known) - 1)]
    edges = np.array(sorted({*inner, *snapped.tolist()}))
    groups, counts, typical = _grouped(plan, scores, edges.tolist())
    low, high = np.concatenate([[0.0], edges]), np.concatenate([edges, [1.0]])
    # Typical values are medians of fine bins: near the means, and kept within what they are means of.
    means = np.clip(np.where(counts > 0, typical, (low + high) / 2), low, high)
    unit = scores.std
    return Ordered(
        counts.astype(np.int64), (edges - scores.mean) / unit, (means - scores.mean) / unit, (0.0, 0.0), groups, None
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
