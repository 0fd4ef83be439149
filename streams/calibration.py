"""Thresholds from a false-alarm budget: people say how many false alarms they bear, not which PSI is too much.

The budget is spent per closed pane over all tests of a version: more than half of it on quality (windows, most of that
on the primary metric overall, and sums of panes), the rest on calibration, estimated quality, drift, unusable values
and River's detectors. A test crosses where a value is less likely than its share under what the reference shows of
itself: chance (sample size) and the spread between its own panes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from schemas.events import Severity
from schemas.metrics import better, split
from schemas.reference import MetricReference
from schemas.specification import CALIBRATION, DriftMeasure, Task
from streams.drift.distances import psi_noise
from streams.drift.measures import SCALES
from streams.drift.scatter import drift_key
from streams.drift.subjects import Subject
from streams.metrics.levels import MEMORY_PANES, MOST_MEMORY, PRIOR_PANES, stretch
from streams.panes import PanePlan

Floats = NDArray[np.float64]

LEAST_PSI: Final = SCALES["psi"].least
QUALITY_SHARE: Final = 0.36
CALIBRATION_SHARE: Final = 0.04
"""Of classifiers; that of regressions is quality's."""
ESTIMATE_SHARE: Final = 0.1
DRIFT_SHARE: Final = 0.15
SEGMENT_DRIFT_SHARE: Final = 0.04
USABLE_SHARE: Final = 0.04
SHAPE_SHARE: Final = 0.03
VOLUME_SHARE: Final = 0.02
SEGMENT_VOLUME_SHARE: Final = 0.01
DELAY_SHARE: Final = 0.01
CUSUM_SHARE: Final = 0.15
SEQUENTIAL_SHARE: Final = 0.05
SHAPES: Final = 3
"""Checks of one feature's shape: range or new categories, vanished categories, standing still."""
MOST_P: Final = 0.05
"""However generous the budget: a single test is never looser than this."""
LEAST_P: Final = 1e-9
SMALLEST_P: Final = 1e-30
"""A p-value below is not told apart: no reference knows its tails so far out."""

MINIMUM_LABELLED: Final = 100
MINIMUM_CLASS: Final = 20
MINIMUM_TRAFFIC: Final = 100
LOSSES: Final = {"binary": ("brier", "accuracy"), "multiclass": ("accuracy",), "regression": ("mae",)}
"""Means over events, which panes can be added up by."""
BOUNDED: Final = frozenset(
    {
        "roc_auc", "pr_auc", "accuracy", "precision", "recall", "f1", "calibration_error", "precision_macro",
        "recall_macro", "f1_macro", "precision_weighted", "recall_weighted", "f1_weighted", "precision[CLASS]",
        "recall[CLASS]", "f1[CLASS]", "top_K_accuracy", "r2",
    }
)  # fmt: skip
"""Metrics on a scale of 0–1: their losses are judged in points, all others relative to the reference."""
SKEW: Final = 2.0
"""Skewness, towards bad, of what makes single panes differ and of one event's loss: that of an exponential."""
EXCESS: Final = 6.0
"""Their excess kurtosis: with such tails, panes tell their spread as well as a quarter as many normal ones would."""
TAME: Final = 2.0
"""Standard errors up to which a pane's loss counts as it is."""
FOREVER: Final = 1e6
"""Panes of a sum that has no end."""
MOST_FREEDOM: Final = 1e6
"""Student's t of more degrees of freedom is normal."""
SPARSE: Final = 3.0
"""By how much more PSI scatters than a chi-squared variable, in values a bin over events."""
LEAST_LOSS: Final = 0.01
LEAST_RELATIVE_LOSS: Final = 0.02
LEAST_UNUSABLE: Final = 0.01


class Bound(NamedTuple):
    """What a value is compared with: `reference` level and `threshold`; `error` is the standard error behind it.

    `upper`: whether values above the threshold cross (else values below); `both`: also values as far on the other side.
    """

    reference: float
    threshold: float
    error: float
    upper: bool
    both: bool = False

    def crossed(self, value: float) -> bool:
        """Whether `value` lies beyond the threshold."""
        distance = abs(self.threshold - self.reference)
        return self._loss(value) > distance

    def recovered(self, value: float) -> bool:
        """Whether `value` is back: less than half way to the threshold (hysteresis)."""
        return self._loss(value) < abs(self.threshold - self.reference) / 2

    def _loss(self, value: float) -> float:
        difference = value - self.reference
        if self.both:
            return abs(difference)
        return difference if self.upper else -difference


@dataclass(frozen=True)
class Allowance:
    """The chance of a false crossing that each test of a version may take per closed pane.

    Notes
    -----
    A union bound: windows overlap and metrics move together, so what really happens stays below the budget.
    """

    primary: float
    other: float
    segment: float
    drift: float
    segment_drift: float
    unusable: float
    shape: float
    """Of each check of a feature's shape (`streams.drift.shapes`)."""
    volume: float
    segment_volume: float
    delay: float
    segment_delay: float
    """Of all segments together."""
    cusum: float
    sequential: float
    """Of each of River's detectors."""
    estimated: float
    calibration: float

    @classmethod
    def of(cls, plan: PanePlan, subjects: int, segments: int, cells: int = 0, places: int = 0) -> Allowance:
        """Spend a plan's budget.

        Parameters
        ----------
        subjects : int
            Drift subjects.
        segments : int
            Segments that have levels of their own.
        cells : int
            Features times segments that they are watched in.
        places : int
            Segments whose volume is watched.
        """
        spec = plan.spec
        budget = spec.budget_per_ms * plan.pane_ms
        # A window with a step of its own ends, and is tested, less often than once a pane.
        timed = sum(plan.pane_ms / (window.step_ms or plan.pane_ms) for window in spec.time_windows.values())
        windows = timed + len(spec.count_windows)
        scored = spec.task != "regression"
        quality = QUALITY_SHARE if scored else QUALITY_SHARE + CALIBRATION_SHARE
        others = len([name for name in spec.judged if name not in {spec.metrics.primary, CALIBRATION}])
        # Weights: the primary metric overall 4, each other metric overall 2, each metric of a segment 1.
        weight = windows * (4 + 2 * others + segments * (1 + others))
        timed = timed or 1.0

        def share(part: float, tests: float) -> float:
            return min(max(budget * part / max(tests, 1.0), LEAST_P), MOST_P)

        return cls(
            primary=share(quality * 4, weight),
            other=share(quality * 2, weight),
            segment=share(quality, weight),
            drift=share(DRIFT_SHARE, subjects * timed),
            segment_drift=share(SEGMENT_DRIFT_SHARE, (2 * segments + cells) * timed),
            unusable=share(USABLE_SHARE, (len(plan.features) + cells) * timed),
            shape=share(SHAPE_SHARE, SHAPES * (len(plan.features) + cells) * timed),
            volume=share(VOLUME_SHARE, 1),
            segment_volume=share(SEGMENT_VOLUME_SHARE, places),
            delay=share(DELAY_SHARE / (2 if spec.data.segments else 1), 2),
            segment_delay=share(DELAY_SHARE / 2, 2),
            cusum=share(CUSUM_SHARE, len(summed(plan.task, spec.metrics.primary))),
            sequential=share(SEQUENTIAL_SHARE, 1 + len(spec.alarms.sequential)),
            estimated=share(ESTIMATE_SHARE, len(spec.judged) * timed),
            calibration=share(CALIBRATION_SHARE, windows * (1 + segments)),
        )


def quality_bound(name: str, level: MetricReference, *, n: int, panes: int, p: float, noise: float = 0.0) -> Bound:
    """Bound of a metric in a window.

    Parameters
    ----------
    name : str
        Metric.
    level : MetricReference
        Of the version (or of the segment).
    n : int
        Labelled events of the window.
    panes : int
        Panes of the window that hold any.
    p : float
        Chance of a false crossing.
    noise : float
        What the metric shows by chance alone at this sample size (calibration error), 0 for unbiased ones.

    Notes
    -----
    Standard error: spread between panes (fewer of them count where neighbours are correlated), chance in the window,
    and the same two for the reference itself, which is a sample as well. Each part has a quantile of its own. What
    makes days differ (weather, holidays) has a longer tail towards bad than chance: Cornish and Fisher's first term
    allows for it, and because such panes tell their spread badly, Student's t has the fewer degrees of freedom.
    """
    panes = max(panes, 1)
    independent = panes / stretch(level.memory, panes)
    share = 1.0 / panes
    reference = level.value
    pooled = 0.0
    if level.pane_value is not None and name != CALIBRATION:
        reference += (level.pane_value - level.value) * share
        pooled = (level.pane_value - level.value) * (1 - share)
    if noise:
        reference = math.hypot(reference, noise)
    learnt = level.panes / stretch(level.memory, level.panes) if level.panes else 0.0
    between = level.spread**2 * (1.0 / independent + (1.0 / learnt if learnt else 0.0))
    # What pooling does follows how far the window's own panes lie apart: it varies as a variance of so many does.
    between += 2 * pooled**2 / independent
    chance = level.scale**2 * (1.0 / max(n, 1) + (1.0 / level.n if level.n else 0.0))
    both = better(name) == "zero"
    tail = p / 2 if both else p
    z = float(-special.ndtri(tail))
    skewed = (z * z - 1) / 6 * SKEW
    # Each with its own tail, so that more events or a larger budget never move a threshold outwards.
    far = (_student(tail, known_sums(level, panes)) + skewed / math.sqrt(independent)) * math.sqrt(between)
    near = (z + skewed / math.sqrt(max(n, 1))) * math.sqrt(chance)
    error = math.sqrt(between + chance)
    least = LEAST_LOSS if split(name)[0] in BOUNDED else LEAST_RELATIVE_LOSS * (level.scale if both else abs(reference))
    distance = max(math.hypot(far, near), least)
    upper = both or better(name) == "lower"
    return Bound(reference, reference + distance if upper else reference - distance, error, upper, both)


def _known_panes(level: MetricReference) -> float:
    """How many normal, independent panes would tell the spread as well."""
    squared = level.memory * level.memory
    return level.panes * (1 - squared) / (1 + squared) / (1 + EXCESS / 2) + PRIOR_PANES


def known_sums(level: MetricReference, panes: float) -> float:
    """Degrees of freedom of the variance of a mean over `panes` panes, as far as it comes from how panes differ.

    Notes
    -----
    It is the product of two estimates: of the spread of panes, and of what their correlation does to a mean of so many.
    Their relative errors add up (the delta method; Satterthwaite 1946 for the degrees of freedom).
    """
    memory = min(level.memory, MOST_MEMORY)
    low, high = max(memory - 0.01, 0.0), memory + 0.01
    slope = math.log(stretch(high, panes) / stretch(low, panes)) / (high - low)
    unsure = slope * slope * (1 - memory * memory) / (level.panes + MEMORY_PANES)
    return 2.0 / (2.0 / _known_panes(level) + unsure)


def explicit_bound(reference: float, threshold: float, *, upper: bool, both: bool = False) -> Bound:
    """A bound that a person set; where the reference lies beyond it already, only the threshold counts.

    Parameters
    ----------
    threshold : float
        `both`: the largest distance from the reference.
    """
    if both:
        return Bound(reference, reference + abs(threshold), 0.0, True, True)
    beyond = reference > threshold if upper else reference < threshold
    return Bound(threshold if beyond else reference, threshold, 0.0, upper)


def coverage_bound(usual: float, part: float, *, n: int, p: float) -> Bound:
    """Bound of label coverage: `part` of the usual one, farther down where so few predictions may do it by chance.

    Parameters
    ----------
    n : int
        Predictions of the window.
    """
    if not 0 < usual < 1:
        return Bound(usual, usual * part, 0.0, False)
    # The last count at or below the quantile is one that no chance explains; of very few predictions there is none.
    count = float(special.bdtrik(p, n, usual))
    least = 0.0 if math.isnan(count) else (math.floor(count) + 0.5) / n
    return Bound(usual, min(usual * part, least), 0.0, False)


def least_p(bound_at: Callable[[float], Bound | None], value: float, allowed: float) -> float:
    """The least chance of a false crossing at which `value` would still cross: the p-value of a crossing.

    Parameters
    ----------
    bound_at : callable
        The bound at a chance p; the smaller p, the farther away it lies. None: nothing can cross.
    value : float
        Crosses at `allowed`.
    allowed : float

    Returns
    -------
    float
        Between `SMALLEST_P` and `allowed`, to three digits.

    Notes
    -----
    What the fleet's budget is held by. Found by bisection, so it means the same for every test; about forty bounds.
    """

    def crosses(p: float) -> bool:
        bound = bound_at(p)
        return bound is not None and bound.crossed(value)

    low, high = math.log(SMALLEST_P), math.log(allowed)
    if low >= high or crosses(SMALLEST_P):
        return min(SMALLEST_P, allowed)
    while high - low > 1e-3:
        middle = (low + high) / 2
        if crosses(math.exp(middle)):
            high = middle
        else:
            low = middle
    return float(f"{math.exp(high):.3g}")


class PaneErrors(NamedTuple):
    """What tests that add panes up go by.

    `own`: standard error of one pane, raised by what correlation does to sums; `unsure`: of the level itself;
    `freedom`: degrees of freedom with which `own` is known.
    """

    own: float
    unsure: float
    freedom: float


def pane_errors(level: MetricReference, n: int) -> PaneErrors:
    """Errors for tests that add panes of `n` events up.

    Notes
    -----
    Sums over correlated panes scatter as if each pane did more; the pane's error is raised by that. How panes differ
    and follow each other was learnt from few; what one event does by chance is known.
    """
    days = level.spread**2 * stretch(level.memory, FOREVER)
    own = days + level.scale**2 / n
    between = level.spread**2 * stretch(level.memory, level.panes) / level.panes if level.panes else 0.0
    unsure = between + (level.scale**2 / level.n if level.n else 0.0)
    share = days / own if own > 0 else 0.0
    freedom = known_sums(level, FOREVER) / share**2 if share > 0 else math.inf
    return PaneErrors(math.sqrt(own), math.sqrt(unsure), freedom)


def estimate_bound(name: str, level: MetricReference, *, n: int, panes: int, p: float, doubt: float) -> Bound:
    """Bound of an estimated metric: that of the metric itself, wider by what the estimate may be off.

    Parameters
    ----------
    doubt : float
        Variance of the estimate's error beyond the chance of labels.
    """
    bound = quality_bound(name, level, n=n, panes=panes, p=p)
    distance = math.hypot(bound.threshold - bound.reference, float(special.ndtri(p)) * math.sqrt(doubt))
    threshold = bound.reference + distance if bound.upper else bound.reference - distance
    return bound._replace(threshold=threshold, error=math.hypot(bound.error, math.sqrt(doubt)))


def _student(p: float, freedom: float) -> float:
    if freedom > MOST_FREEDOM:
        return float(-special.ndtri(p))
    return float(-special.stdtrit(max(freedom, 3.0), p))


def drift_bound(plan: PanePlan, subject: Subject, window: str, *, n: int, p: float) -> Bound:
    """Bound of the distance that decides about a subject's drift in a window.

    Notes
    -----
    Chance gives PSI about (1/n + 1/m) χ², and others as `streams.drift.measures` says; the reference's own windows add
    a mean and a scatter of their own, taken as a scaled χ² too. What each may exceed its mean by is added as a root of
    squares.
    """
    scale = SCALES[subject.measure]
    chance, bins = subject.noise
    drift = plan.reference.drift
    excess = drift.get(drift_key(subject.key, window, "excess"), 0.0)
    freedom = max(drift.get(drift_key(subject.key, window, "dof"), bins), 1.0)
    noise = chance * (1.0 / max(n, 1) + 1.0 / max(subject.reference_n, 1))
    mean = noise + excess  # as `usual_drift`
    # Few values a bin have longer tails than chi-squared.
    normal = bins / (1 + SPARSE * (bins + 1) / max(n, 1))
    by_chance = noise * (float(special.chdtri(normal, p)) / normal - 1)
    by_itself = excess * (float(special.chdtri(freedom, p)) / freedom - 1)
    usual = scale.back(mean)
    threshold = scale.back(mean + math.hypot(by_chance, by_itself))
    error = scale.back(mean + math.hypot(noise * math.sqrt(2 / normal), excess * math.sqrt(2 / freedom))) - usual
    return Bound(usual, max(threshold, usual + scale.least), error, True)


def distance_bound(bins: int, n: float, reference_n: float, *, excess: float, dof: float, p: float) -> Bound:
    """Bound of a PSI whose mean beyond chance is `excess`, with the scatter of `dof` degrees of freedom."""
    noise = psi_noise(bins, n, reference_n)
    mean = noise + excess
    variance = 2 * noise**2 / (bins - 1) + 2 * excess**2 / max(dof, 1.0)
    joint = 2 * mean**2 / variance
    threshold = mean / joint * float(special.chdtri(joint, p))
    return Bound(mean, max(threshold, mean + LEAST_PSI), math.sqrt(variance), True)


def usual_distance(bins: Floats, n: Floats, reference_n: Floats, excess: Floats) -> Floats:
    """References of `distance_bound` for many subjects; no threshold is nearer to them than `LEAST_PSI`."""
    return np.asarray((bins - 1) * (1.0 / np.maximum(n, 1.0) + 1.0 / np.maximum(reference_n, 1.0)) + excess)


def usual_drift(noise: Floats, n: Floats, reference_n: Floats, excess: Floats) -> Floats:
    """References of `drift_bound` for many subjects, on the measures' common scale.

    No threshold is nearer to them than `least` of the measure's scale.
    """
    return np.asarray(noise * (1.0 / np.maximum(n, 1.0) + 1.0 / np.maximum(reference_n, 1.0)) + excess)


def usual_unusable(subject: Subject) -> float:
    """Reference of `unusable_bound`; no threshold is nearer to it than `LEAST_UNUSABLE`, but where that is beyond 1."""
    return (subject.missing + 0.5) / (subject.reference_n + subject.missing + 1.0)


def unusable_bound(plan: PanePlan, subject: Subject, window: str, *, n: int, p: float) -> Bound:
    """Bound of the share of values that are missing or of the wrong type."""
    m = subject.reference_n + subject.missing
    rate = usual_unusable(subject)
    spread = plan.reference.drift.get(drift_key(subject.key, window, "missing"), 0.0)
    error = math.sqrt(spread**2 + rate * (1 - rate) / m)
    usual = min(rate - float(special.ndtri(p)) * error, 1.0)
    if usual >= 1.0:
        return Bound(rate, 1.0, error, True)
    # The smallest count that is less likely than p under the usual rate.
    count = math.floor(float(special.bdtrik(1 - p, n, usual))) + 1
    return Bound(rate, min(max(count / n, rate + LEAST_UNUSABLE), 1.0), error, True)


def tame(z: float, value: float, bound_at: Callable[[float], Bound]) -> float:
    """A pane's standardised loss as sums may take it: where it is large, the normal number that is as unlikely.

    Parameters
    ----------
    z : float
        Loss in standard errors.
    value : float
        The metric itself.
    bound_at : callable
        Bounds of a single pane at any chance.

    Notes
    -----
    Days that differ have longer tails than a normal distribution: one odd day of eight standard errors must not count
    as eight.
    """
    if z <= TAME:
        return z
    chance = float(special.ndtr(-TAME))
    if not bound_at(chance).crossed(value):
        return TAME
    return min(z, float(-special.ndtri(least_p(bound_at, value, chance))))


def summed(task: Task, primary: str, known: Container[str] | None = None) -> list[str]:
    """Losses whose panes are added up: the task's first, and the primary metric where it is another of them.

    Parameters
    ----------
    known : container of str, optional
        Metrics that the model has.

    Notes
    -----
    New errors show in accuracy first where doubtful predictions turn wrong, in Brier's score where sure ones do.

    Examples
    --------
    >>> summed("binary", "accuracy"), summed("binary", "roc_auc"), summed("regression", "rmse")
    (['brier', 'accuracy'], ['brier'], ['mae'])
    """
    there = [name for name in LOSSES[task] if known is None or name in known]
    return [name for at, name in enumerate(there) if at == 0 or name == primary]


def cusum_p(
    total: float, panes: int, allowance: float, unsure: float, *, freedom: float = math.inf, whole: float = 0.0
) -> float:
    """How likely a cumulative sum so large is without a change: once in so many panes.

    Parameters
    ----------
    total : float
        The sum.
    panes : int
        Panes since it left zero.
    allowance : float
        Loss per pane that was not counted.
    unsure : float
        Standard error of the reference, in those of a pane.
    freedom : float
        Degrees of freedom with which a pane's standard error is known.
    whole : float
        The sum as it would be had it not been cut, where it was.

    Notes
    -----
    The larger of two: what chance does from pane to pane, and what a reference does that is off. The allowance covers
    the latter for one model; among thousands, some references are off by more.
    """
    by_chance = 1.0 / max(_run_length(total, allowance, freedom), 1.0)
    mean = max(total, whole) / max(panes, 1) + allowance
    off = mean / math.sqrt(1 / max(panes, 1) + unsure**2)
    by_reference = float(special.stdtr(freedom, -off) if freedom <= MOST_FREEDOM else special.ndtr(-off))
    return float(f"{max(by_chance, by_reference, SMALLEST_P):.3g}")


def _run_length(limit: float, allowance: float, freedom: float) -> float:
    """Panes until a cumulative sum without change is beyond `limit`, on average (Siegmund).

    Notes
    -----
    The chance of a crossing falls with exp(-x / variance). Over a variance that was estimated (a scaled inverse
    chi-squared) its mean is (1 + 2x / freedom) ** (-freedom / 2): what Student's t is to a normal distribution.
    """
    x = 2 * allowance * (limit + 1.166)
    if freedom <= MOST_FREEDOM:
        x = freedom / 2 * math.log1p(2 * x / freedom)
    return math.inf if x > 700 else (math.exp(x) - x - 1) / (2 * allowance**2)


@lru_cache(maxsize=4096)
def cusum_limit(p: float, allowance: float, freedom: float = math.inf) -> float:
    """Limit of a one-sided cumulative sum whose average run length without change is 1 / p.

    Parameters
    ----------
    freedom : float
        Degrees of freedom with which a pane's standard error is known.

    References
    ----------
    Siegmund (1985), Sequential Analysis: Tests and Confidence Intervals.
    """
    # The run length solved for x, by iteration; then what `_run_length` does to x, backwards.
    wanted, x = 2 * allowance**2 / p, 1.0
    for _ in range(40):
        x = math.log1p(wanted + x)
    if freedom <= MOST_FREEDOM:
        x = freedom / 2 * math.expm1(2 * x / freedom)
    return max(x / (2 * allowance) - 1.166, 0.1)


def quality_severity(name: str, bound: Bound, value: float) -> Severity:
    """Severity by the size of the loss: points for metrics on 0–1, relative to the reference for all others."""
    loss = abs(value - bound.reference)
    if split(name)[0] in BOUNDED:
        return _severity(loss, (0.03, 0.10))
    return _severity(loss / abs(bound.reference) if bound.reference else math.inf, (0.07, 0.30))


def drift_severity(bound: Bound, value: float, measure: DriftMeasure = "psi") -> Severity:
    """Severity by the distance beyond what is usual (of PSI 0.1 and 0.25 are the customary marks)."""
    least = SCALES[measure].least
    return _severity(value - bound.reference, (2 * least, 5 * least))


def unusable_severity(bound: Bound, value: float) -> Severity:
    """Severity by the share of values lost."""
    return _severity(value - bound.reference, (0.05, 0.30))


def _severity(effect: float, marks: Sequence[float]) -> Severity:
    if effect >= marks[1]:
        return "critical"
    return "warning" if effect >= marks[0] else "info"
