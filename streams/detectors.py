"""Which tests a version's windows go through when they close, and what they find."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.events import Kind, Observation, QualityMetric, Severity
from schemas.metrics import lower_is_better, split
from schemas.reference import MetricReference
from schemas.specification import CALIBRATION
from streams import calibration as cal
from streams.detection import Finding, Key, Open, Watches
from streams.drift.bank import Bank
from streams.drift.by_segment import CellTable, SegmentTable
from streams.drift.calendar import Calendar, Likeness
from streams.drift.change import change_p
from streams.drift.checks import Check, lead
from streams.drift.delays import DELAYS, STABLE_PANES, UsualDelay, delay_bound, delay_severity
from streams.drift.scatter import drift_key
from streams.drift.sequential import AdaptiveWindow, PageState, page_test
from streams.drift.shapes import Shapes, Usual
from streams.drift.subjects import Subject, cell_name, subjects
from streams.drift.table import Measured, SubjectTable
from streams.drift.volume import COLLAPSE, volume_bound, volume_severity
from streams.drift.volumes import FORGET_MS, segment_bound, watched_segments
from streams.estimate.estimates import Estimated, Estimates, EstimateState
from streams.estimate.trust import LOW
from streams.metrics.compute import compute
from streams.metrics.delay import label_delays
from streams.metrics.probability import calibration_noise
from streams.metrics.view import View
from streams.panes import PanePlan
from streams.seasons import DAY_MS
from streams.stable import StablePanes, learn_pane, refined_levels, stable_panes
from streams.versions import Versions
from streams.weekdays import on_weekday, shift, shifted
from streams.windows import Window

Counts = NDArray[np.int64]

COVERAGE_HISTORY: Final = 30
COVERAGE_PANES: Final = 5
"""Panes from which on coverage is known well enough to be called thin."""
_COVERED: Final = 100_000
THIN: Final = 0.5
"""Coverage below this share of the usual one is thin: an observation of its own, and no quality is judged on it."""
_QUALITY: Final = frozenset({"quality", "calibration", "estimated-quality"})
_ALLOWANCE: Final = 0.25
_FAR: Final = 1e-4
"""Part of its chance to which a cumulative sum may go on: the share of each of ten thousand models."""
_MOST_LIMITS: Final = 6.0
"""Limits at which it is cut at the latest: a model that recovered has to come back from there."""
_ADWIN_DELTA: Final = 0.002
_NEARLY: Final = 1.0 - 1e-9
"""Of a bound's smallest distance: the arrays round otherwise than the bounds themselves."""
_GONE: Final = 0.99
"""Share of unusable values from which on a feature is not what the specification says."""
_BROKEN: Final[tuple[Kind, ...]] = ("data-quality", "skew")
FRESH_PANES: Final = 2
"""Panes of a version in which a broken feature is a skew between training and serving, not something that broke."""
EQUIPMENT: Final = "_equipment"
"""Attribute of a plan that keeps its `Equipment`."""


class _Loss(NamedTuple):
    """A pane's loss: standardised, as the metric tells it, beside its reference, and of how many events.

    `own_share` is what of the variance of `z` a single pane shows; the rest is correlation with its neighbours.
    """

    z: float
    value: float
    bound: cal.Bound
    n: int
    own_share: float

    @classmethod
    def of(cls, name: str, value: float, level: MetricReference, n: int, own: float) -> _Loss:
        """Of a metric's value in a pane of `n` events; `own`: its standard error (`calibration.pane_errors`)."""
        sign = 1.0 if lower_is_better(name) else -1.0
        reference = level.value if level.pane_value is None else level.pane_value
        bound = cal.Bound(reference, reference + sign * _ALLOWANCE * own, own, sign > 0)
        return cls(sign * (value - reference) / own, value, bound, n, (level.spread**2 + level.scale**2 / n) / own**2)


class DetectorState(msgspec.Struct, array_like=True):
    """Snapshot of `Detectors`."""

    open: list[tuple[Kind, str, str, str, Open]]
    coverage: list[float]
    pages: dict[str, PageState]
    history: list[float]
    jump: tuple[float, float] | None
    since_ms: int = -1
    delays: list[tuple[float, float]] = []
    jumps: dict[str, tuple[float, float]] = {}
    stable: StablePanes = msgspec.field(default_factory=StablePanes)
    estimate: EstimateState | None = None
    coverages: dict[str, tuple[int, int]] = {}
    segment_delays: dict[str, tuple[UsualDelay, UsualDelay]] = {}


class _Sheet:
    """What the tests of one table's features need.

    Attributes
    ----------
    drift : float
        Chance of a false crossing of each distance.
    shapes : Shapes
    feature : dict of int to int
        Number of a feature among the features by its row.
    usual_lost : array of float
        Missing values of each feature, as a share.
    """

    def __init__(self, table: SubjectTable, drift: float) -> None:
        self.drift = drift
        self.shapes = Shapes(table)
        self.feature = {row: at for at, row in enumerate(table.features.tolist())}
        self.usual_lost = np.array([cal.usual_unusable(s) for s in table.subjects if s.slots is not None])


class Equipment:
    """What the tests of a version need of its plan, compiled once: many closings share it.

    Parameters
    ----------
    plan : PanePlan

    Attributes
    ----------
    traffic, labels : SubjectTable
        Subjects that close with the traffic (features, prediction), and with the labels.
    by_segment : dict of str to SegmentTable
        Prediction and label.
    cells : CellTable
        Features in segments.
    places : tuple of str
        Segments whose volume is watched.
    importance : dict of str to float
        Share of the model's importance by feature; sums to 1. Empty where nobody knows: of models that are trained
        elsewhere, and of those that no feature tells anything.
    """

    def __init__(self, plan: PanePlan) -> None:
        every = subjects(plan)
        self._plan = plan
        whole = {subject.name: subject for subject in every}
        self.cells = CellTable(plan, whole)
        self.places = watched_segments(plan.reference.segments)
        a = self.allowance = cal.Allowance.of(
            plan,
            len(every),
            len(plan.reference.segment_metrics),
            cells=len(self.cells.table.subjects),
            places=len(self.places),
        )
        self.traffic = SubjectTable(plan, [subject for subject in every if subject.kind != "label-drift"])
        self.labels = SubjectTable(plan, [subject for subject in every if subject.kind == "label-drift"])
        self.by_segment = {name: SegmentTable(plan, whole.get(name)) for name in ("prediction", "label")}
        total = sum(plan.reference.importances.values())
        self.importance = {name: value / total for name, value in plan.reference.importances.items() if total > 0}
        self._sheets = {
            id(self.traffic): _Sheet(self.traffic, a.drift),
            id(self.labels): _Sheet(self.labels, a.drift),
            id(self.cells.table): _Sheet(self.cells.table, a.segment_drift),
        }
        self._lengths = {name: timed.length_ms for name, timed in plan.spec.time_windows.items()}
        self._excess: dict[tuple[int, str], NDArray[np.float64]] = {}
        seasons, weekdays = plan.reference.seasons, plan.reference.weekdays
        self.calendars: dict[int, Calendar] = {}
        """By the identity of a table. A year knows its months; what weekdays do is in the scatter around these."""
        if seasons is not None:
            tables = [table for table in (self.traffic, self.labels, self.cells.table) if table.subjects]
            self.calendars = {id(table): Calendar.of_months(table, seasons) for table in tables}
        elif weekdays is not None:
            tables = [table for table in (self.traffic, self.labels) if table.subjects]
            self.calendars = {id(table): Calendar.of_weekdays(table, weekdays) for table in tables}
        self.reference_days = (plan.reference.end_ms - plan.reference.start_ms) // DAY_MS + 1
        given = plan.spec.alarms.thresholds
        self.thresholds = {s.name: given.get(s.name, given.get(s.measure)) for s in every}
        """Distance that a person set, by subject; None: calibrated."""

    def sheet(self, table: SubjectTable) -> _Sheet:
        """What the tests of a table's features need."""
        return self._sheets[id(table)]

    def fixed(self, table: SubjectTable) -> NDArray[np.float64]:
        """Set thresholds by row; infinite where there is none."""
        # Of segments, none is set.
        found = (None if s.segment else self.thresholds[s.name] for s in table.subjects)
        return np.array([math.inf if threshold is None else threshold for threshold in found])

    @classmethod
    def of(cls, plan: PanePlan) -> Equipment:
        """Equipment of a plan, kept with it."""
        found = vars(plan).get(EQUIPMENT)
        if not isinstance(found, cls):
            found = vars(plan)[EQUIPMENT] = cls(plan)
        return found

    def excess(self, table: SubjectTable, window: str) -> NDArray[np.float64]:
        """Drift of the reference's own windows beyond chance, by row."""
        key = (id(table), window)
        if key not in self._excess:
            drift = self._plan.reference.drift
            usual = [drift.get(drift_key(s.key, window, "excess"), 0.0) for s in table.subjects]
            self._excess[key] = np.array(usual)
        return self._excess[key]

    def usual(self, table: SubjectTable, window: str, row: int) -> Usual:
        """How the reference's own windows of a feature differ."""
        reference, subject = self._plan.reference, table.subjects[row].key
        varies = float(self.excess(table, window)[row] / table.noise[row])
        known = self._lengths.get(window, self._plan.pane_ms)
        top = reference.drift.get(drift_key(subject, window, "top"), 1.0)
        return Usual(varies, max((reference.end_ms - reference.start_ms) / known, 1.0), top)


class Detectors:
    """All tests of one version.

    Parameters
    ----------
    model : str
    version : int
    plan : PanePlan
    """

    def __init__(self, model: str, version: int, plan: PanePlan, estimate: EstimateState | None = None) -> None:
        self.plan = plan
        self.watches = Watches(model, version)
        self.equipment = Equipment.of(plan)
        self.allowance = self.equipment.allowance
        self.since_ms = -1
        """Start of the first window that was judged."""
        self.delays: list[tuple[float, float]] = []
        """Median and ninth decile of the label delay in the first stable panes, in seconds."""
        self.segment_delays: dict[str, tuple[UsualDelay, UsualDelay]] = {}
        self.minimum_labelled = plan.spec.alarms.minimum_labelled
        self.coverage: list[float] = []
        self.coverages: dict[str, tuple[int, int]] = {}
        """Usual coverage by segment: a running mean in thousandths of a percent, and of how many panes."""
        self.stable = StablePanes()
        self.levels: Mapping[str, MetricReference] = plan.reference.metrics
        """Of the version overall: the reference's, with what the first stable period adds."""
        self._wanted = stable_panes(plan.pane_ms)
        self.pages: dict[str, PageState] = {}
        """Cumulative sums by metric."""
        self.history: list[float] = []
        self.jump: tuple[float, float] | None = None
        self.jumps: dict[str, tuple[float, float]] = {}
        """Standardised loss before and after a change that one of River's detectors saw, while it is open."""
        self.estimates = Estimates(plan, estimate)
        self._adwin: AdaptiveWindow | None = None
        self._bank: Bank | None = None

    # --------------------------------------------------------------------------------------------- quality

    def quality(
        self, segment: str, window: Window, metric: QualityMetric, *, total: Counts, filled: int, now_ms: int
    ) -> Iterator[Observation]:
        """Compare a closed window's metrics with the levels of the reference.

        Notes
        -----
        Nothing is judged on too few labels, too few of one class, or thin coverage.
        """
        levels = self.plan.reference.segment_metrics.get(segment, {}) if segment else self.levels
        if metric.n < self.minimum_labelled or metric.coverage < THIN * self.usual_coverage(segment) or not levels:
            return
        view = View(self.plan, total)
        for name in self.plan.spec.tested:
            value, level = metric.metrics.get(name), levels.get(name)
            if value is None or level is None or not self._enough_of_each(name, view):
                continue
            level = on_weekday(level, window.start_ms, window.end_ms)
            p = self._quality_p(name, segment)
            noise = 0.0
            if name == CALIBRATION:
                noise = calibration_noise(view.many("calibration_n"), view.many("calibration_total"))
            at = _at(name, level, n=metric.n, panes=filled, noise=noise)
            bound = at(p)
            evidence: dict[str, Any] = {"statistic": name, "coverage": round(metric.coverage, 4), "panes": filled}
            fixed = None if segment else self.plan.spec.alarms.thresholds.get(name)
            if fixed is not None:
                bound = cal.explicit_bound(bound.reference, fixed, upper=bound.upper, both=bound.both)
            else:
                evidence |= {"standard_error": round(bound.error, 6), "p": p}
            kind: Kind = "calibration" if name == CALIBRATION else "quality"
            yield from self._judge(
                Key(kind, name, segment, window.name),
                window,
                value,
                bound,
                n=metric.n,
                severity=cal.quality_severity(name, bound, value),
                evidence=evidence,
                now_ms=now_ms,
                at=None if fixed is not None else at,
            )

    def estimated(self, window: Window, found: Estimated, now_ms: int) -> Iterator[Observation]:
        """Compare a window's estimated metrics with the levels of the reference.

        Notes
        -----
        The bound of the metric itself, wider by what the estimate may be off. While the estimate is not to be trusted,
        nothing opens, and what is open closes.
        """
        if found.n < cal.MINIMUM_TRAFFIC:
            return
        trust = self.estimates.trust() or 0.0
        panes = (window.end_ms - window.start_ms) // self.plan.pane_ms
        p = self.allowance.estimated
        for name in self.plan.spec.judged:
            guess, level = found.guesses.get(name), self.levels.get(name)
            if guess is None or level is None:
                continue
            level = on_weekday(level, window.start_ms, window.end_ms)
            doubt = guess.doubt * self.estimates.errors(window.name, name).scale ** 2
            at = _estimate_at(name, level, n=found.n, panes=panes, doubt=doubt)
            bound = at(p)
            low, high = found.intervals[name]
            evidence: dict[str, Any] = {
                "statistic": name,
                "low": round(low, 6),
                "high": round(high, 6),
                "trust": round(trust, 4),
            }
            fixed = self.plan.spec.alarms.thresholds.get(name)
            if fixed is not None:
                bound = cal.explicit_bound(bound.reference, fixed, upper=bound.upper, both=bound.both)
            else:
                evidence["p"] = p
            value = guess.value
            trusted = min(trust, self.estimates.trust(name) or 0.0) >= LOW
            if fixed is None and trusted and bound.crossed(value):
                evidence["p_value"] = cal.least_p(at, value, p)
            finding = Finding(
                window.start_ms, window.end_ms, value, bound.reference, bound.threshold, found.n,
                cal.quality_severity(name, bound, value), trusted and bound.crossed(value),
                not trusted or bound.recovered(value), evidence,
            )  # fmt: skip
            yield from self._look(Key("estimated-quality", name, "", window.name), finding, now_ms)

    def _quality_p(self, name: str, segment: str) -> float:
        if name == CALIBRATION:
            return self.allowance.calibration
        if segment:
            return self.allowance.segment
        return self.allowance.primary if name == self.plan.spec.metrics.primary else self.allowance.other

    def _enough_of_each(self, name: str, view: View) -> bool:
        family, argument = split(name)
        if family in {"precision[CLASS]", "recall[CLASS]", "f1[CLASS]"}:
            counts = view.many("decided" if family == "precision[CLASS]" else "truth")
            return bool(counts[self.plan.class_index[argument]] >= cal.MINIMUM_CLASS)
        if self.plan.task != "binary" or name in {"accuracy", "brier", "log_loss", "cost", CALIBRATION}:
            return True
        matrix = view.matrix
        return bool(min(int(matrix[0].sum()), int(matrix[1].sum())) >= cal.MINIMUM_CLASS)

    def usual_coverage(self, segment: str = "") -> float:
        """Median coverage of closed panes; 1 until enough of them are known.

        Notes
        -----
        Of a segment its own mean, once as many of its panes are known: labels of a place may be fewer than those of all
        in any case, or as good as complete there and thin without anybody noticing overall.
        """
        mean, panes = self.coverages.get(segment, (0, 0))
        if panes >= COVERAGE_PANES:
            return mean / _COVERED
        return median(self.coverage) if len(self.coverage) >= COVERAGE_PANES else 1.0

    def enough_labels(self, total: Counts, segment: str = "") -> bool:
        """Whether coverage is no less than usual: the few labels of a window may not be those of all."""
        view = View(self.plan, total)
        predicted, labelled = view.one("predicted"), view.one("labelled")
        return labelled > 0 and labelled >= THIN * self.usual_coverage(segment) * predicted

    def pane(self, pane: Window, total: Counts, now_ms: int) -> Iterator[Observation]:
        """Once per closed pane: coverage and the sequential detectors."""
        view = View(self.plan, total)
        predicted, labelled = view.one("predicted"), view.one("labelled")
        coverage = labelled / predicted if predicted else 0.0
        usual = self.usual_coverage()
        known = len(self.coverage) >= COVERAGE_PANES
        thin = coverage < THIN * usual
        if known and predicted >= cal.MINIMUM_TRAFFIC:
            p = self.allowance.unusable
            bound_at = partial(_coverage_bound, usual, predicted)
            yield from self._judge(
                Key("coverage", "coverage", "", "pane"),
                pane,
                coverage,
                bound_at(p),
                n=predicted,
                severity=cal.unusable_severity(cal.Bound(0.0, 0.0, 0.0, True), usual - coverage),
                evidence={"statistic": "coverage", "labelled": labelled, "predicted": predicted, "p": p},
                now_ms=now_ms,
                at=bound_at,
            )
        if not (known and thin):
            self.coverage = [*self.coverage, coverage][-COVERAGE_HISTORY:]
        if not thin:
            self._learn(pane, view, labelled)
            if labelled >= self.minimum_labelled:
                yield from self._delayed(pane, view, labelled, now_ms)
                yield from self._sequential(pane, view, labelled, now_ms)

    def covered(self, pane: Window, labels: Mapping[str, tuple[int, int]], now_ms: int) -> Iterator[Observation]:
        """Once per closed pane: coverage of the segments that the reference knows, each against its own usual.

        Parameters
        ----------
        labels : mapping of str to (int, int)
            Predictions and labelled ones of the pane by segment, and overall (``""``).

        Notes
        -----
        Where labels are thin everywhere, that is said once.
        """
        whole = labels.get("", (0, 0))
        if whole[1] < THIN * self.usual_coverage() * whole[0]:
            return
        known = self.plan.reference.segments
        p = max(self.allowance.unusable / max(len(known), 1), cal.LEAST_P)
        for segment, (predicted, labelled) in sorted(labels.items()):
            if predicted < cal.MINIMUM_TRAFFIC or segment not in known:
                continue
            mean, panes = self.coverages.get(segment, (0, 0))
            usual, coverage = mean / _COVERED, labelled / predicted
            if panes >= COVERAGE_PANES:
                bound_at = partial(_coverage_bound, usual, predicted)
                yield from self._judge(
                    Key("coverage", "coverage", segment, "pane"),
                    pane,
                    coverage,
                    bound_at(p),
                    n=predicted,
                    severity=cal.unusable_severity(cal.Bound(0.0, 0.0, 0.0, True), usual - coverage),
                    evidence={"statistic": "coverage", "labelled": labelled, "predicted": predicted, "p": p},
                    now_ms=now_ms,
                    at=bound_at,
                )
                if coverage < THIN * usual:
                    continue
            panes = min(panes + 1, COVERAGE_HISTORY)
            self.coverages[segment] = (mean + round((coverage * _COVERED - mean) / panes), panes)

    def _learn(self, pane: Window, view: View, labelled: int) -> None:
        """Take the pane into the first stable period, where it is one and nothing is wrong with its quality."""
        if len(self.stable.panes) >= self._wanted or any(key.kind in _QUALITY for key in self.watches.open):
            return
        names = self.plan.spec.judged
        values = compute(self.plan, view.counts, names)
        seen: list[float | None] = []
        for name in names:
            value, level = values.get(name), self.plan.reference.metrics.get(name)
            known = value is not None and level is not None
            seen.append(value - shift(level, pane.start_ms, pane.end_ms) if known else value)  # type: ignore[operator, arg-type]
        if learn_pane(self.stable, labelled, seen, self._wanted):
            self.levels = refined_levels(self.plan.reference.metrics, names, self.stable)

    def _delayed(self, pane: Window, view: View, labelled: int, now_ms: int) -> Iterator[Observation]:
        """Label delays against those of the first stable panes."""
        longest = self.plan.max_label_delay_ms // 1000
        found = label_delays(view.many("delay"), view.one("delay_total"), longest)
        if not found:
            return
        now = tuple(found[name] for name in DELAYS)
        for at, name in enumerate(DELAYS):
            bound_at = partial(delay_bound, [known[at] for known in self.delays], self.plan.pane_ms / 1000)
            bound = bound_at(self.allowance.delay)
            if bound is None:
                continue
            yield from self._judge(
                Key("label-delay", name, "", "pane"),
                pane,
                now[at],
                bound,
                n=labelled,
                severity=delay_severity(bound, now[at]),
                evidence={"statistic": name, "p": self.allowance.delay, "panes": len(self.delays)},
                now_ms=now_ms,
                at=bound_at,
            )
        if len(self.delays) < STABLE_PANES and not any(key.kind == "label-delay" for key in self.watches.open):
            self.delays = [*self.delays, (now[0], now[1])]

    def busy(self, labels: Mapping[str, tuple[int, int]]) -> list[str]:
        """Segments of the reference with enough labels in a pane; `labels` as of `covered`."""
        known, least = self.plan.reference.segments, self.minimum_labelled
        return [segment for segment, (_, labelled) in labels.items() if segment in known and labelled >= least]

    def delayed(self, pane: Window, totals: Mapping[str, Counts], now_ms: int) -> Iterator[Observation]:
        """Once per closed pane: label delays of segments, each against its own first stable panes.

        Parameters
        ----------
        totals : mapping of str to array of int
            Counters of the pane in the segments that are `busy`.

        Notes
        -----
        Where labels come late everywhere, that is said once.
        """
        longest, pane_s = self.plan.max_label_delay_ms // 1000, self.plan.pane_ms / 1000
        p = max(self.allowance.segment_delay / max(len(self.plan.reference.segments), 1), cal.LEAST_P)
        late = {key.segment for key in self.watches.open if key.kind == "label-delay"}
        for segment, total in sorted(totals.items()):
            view = View(self.plan, total)
            found = label_delays(view.many("delay"), view.one("delay_total"), longest)
            if not found or not self.enough_labels(total, segment):
                continue
            known = self.segment_delays.get(segment, (UsualDelay(), UsualDelay()))
            now = tuple(found[name] for name in DELAYS)
            for name, usual, value in zip(DELAYS, known, now, strict=True):
                key = Key("label-delay", name, segment, "pane")
                bound_at = partial(usual.bound, pane_s)
                bound = bound_at(p)
                if bound is None or ("" in late and key not in self.watches.open):
                    continue
                yield from self._judge(
                    key,
                    pane,
                    value,
                    bound,
                    n=view.one("labelled"),
                    severity=delay_severity(bound, value),
                    evidence={"statistic": name, "p": p, "panes": usual.panes},
                    now_ms=now_ms,
                    at=bound_at,
                )
            opened = any(key.kind == "label-delay" and key.segment == segment for key in self.watches.open)
            if "" not in late and not opened:
                self.segment_delays[segment] = (known[0].with_pane(now[0]), known[1].with_pane(now[1]))

    def volume(self, pane: Window, versions: Versions, now_ms: int) -> Iterator[Observation]:
        """Once per pane that passed, with traffic or without: fewer predictions than the model's own usual.

        Parameters
        ----------
        versions : Versions
            Volume is the model's: what is usual does not change with a promotion, and shadows do not add to it.
        """
        p, predicted = self.allowance.volume, versions.predicted(pane.start_ms, pane.end_ms)
        bound_at = partial(volume_bound, versions.volume, pane.start_ms, self.plan.pane_ms)
        bound = bound_at(p)
        if bound is not None:
            yield from self._judge(
                Key("data-quality", "volume", "", "pane"),
                pane,
                float(predicted),
                bound,
                n=predicted,
                severity=volume_severity(bound, predicted),
                evidence={"statistic": "predictions", "p": p},
                now_ms=now_ms,
                at=bound_at,
            )
        versions.judged(pane.start_ms, collapsed=bound is not None and bound.crossed(predicted))

    def volumes(self, pane: Window, versions: Versions, now_ms: int) -> Iterator[Observation]:
        """After `volume`: fewer predictions in a segment than its own usual, beyond what is missing everywhere.

        Notes
        -----
        A collapse of the whole is said once, and teaches nothing of segments.
        """
        if not self.equipment.places or versions.collapsed(pane.start_ms):
            return
        p = self.allowance.segment_volume
        for segment in self.equipment.places:
            key = Key("data-quality", "volume", segment, "pane")
            known = self.watches.open.get(key)
            if known is not None and pane.end_ms >= known.opened_end_ms + FORGET_MS:
                versions.segments.drop(segment)
            predicted = versions.predicted(pane.start_ms, pane.end_ms, segment)
            usual = versions.segments.usual(segment, pane.start_ms)
            collapsed = False
            # No bound lies nearer: what came in full needs none, which most of them do.
            if usual is not None and (predicted < usual * COLLAPSE or known is not None):
                rest = versions.rest(pane.start_ms, segment, predicted)
                state = versions.segments.of(segment)
                bound_at = partial(segment_bound, state, pane.start_ms, self.plan.pane_ms, rest)
                bound = bound_at(p)
                if bound is not None:
                    collapsed = bound.crossed(predicted)
                    yield from self._judge(
                        key,
                        pane,
                        float(predicted),
                        bound,
                        n=predicted,
                        severity=volume_severity(bound, predicted),
                        evidence={"statistic": "predictions", "p": p, "rest": round(rest, 4)},
                        now_ms=now_ms,
                        at=bound_at,
                    )
            versions.judged(pane.start_ms, collapsed=collapsed, segment=segment)

    # ------------------------------------------------------------------------------------------ sequential

    def _losses(self, pane: Window, view: View) -> Iterator[tuple[str, float, MetricReference]]:
        """Metrics whose means are watched pane by pane, as losses (higher is worse)."""
        plan, levels = self.plan, self.levels
        for name in cal.summed(plan.task, plan.spec.metrics.primary, levels):
            value = compute(plan, view.counts, [name]).get(name)
            # A threshold that a person set is all there is to say about a metric.
            if value is not None and name not in plan.spec.alarms.thresholds:
                yield name, value, shifted(levels[name], pane.start_ms, pane.end_ms)

    def _sequential(self, pane: Window, view: View, n: int, now_ms: int) -> Iterator[Observation]:
        """The sums of every loss; River's detectors on the first."""
        for at, (name, value, level) in enumerate(self._losses(pane, view)):
            errors = cal.pane_errors(level, n)
            if errors.own <= 0:
                continue
            loss = _Loss.of(name, value, level, n, errors.own)
            yield from self._summed(pane, name, loss, level, errors, now_ms)
            if at == 0:
                yield from self._river(pane, name, loss, now_ms)
                yield from self._adaptive(pane, name, loss, now_ms)

    def _summed(  # noqa: PLR0917
        self, pane: Window, name: str, loss: _Loss, level: MetricReference, errors: cal.PaneErrors, now_ms: int
    ) -> Iterator[Observation]:
        """The cumulative sum of a loss."""
        p, unsure, freedom = self.allowance.cusum, errors.unsure / errors.own, errors.freedom
        # The reference is a sample: what it may be off by, pane after pane, must not add up to an alarm.
        allowance = _ALLOWANCE + 2 * unsure
        limit = cal.cusum_limit(p, allowance)
        most = min(cal.cusum_limit(p * _FAR, allowance, freedom), _MOST_LIMITS * limit)
        at = _at(name, level, n=loss.n, panes=1, noise=0.0)
        state = self.pages.setdefault(name, PageState())
        step = cal.tame(loss.z, loss.value, at)
        crossed = page_test(state, step, allowance=allowance, limit=limit, pane_start_ms=pane.start_ms, most=most)
        reference, own, sign = loss.bound.reference, loss.bound.error, 1.0 if loss.bound.upper else -1.0
        bound = loss.bound._replace(threshold=reference + sign * allowance * own)
        evidence: dict[str, Any] = {
            "statistic": "cusum",
            "sum": round(state.total, 3),
            "limit": round(limit, 3),
            "allowance": round(allowance, 3),
            "p": p,
        }
        if crossed:
            panes = (pane.end_ms - state.since_ms) // self.plan.pane_ms
            p_value = cal.cusum_p(state.total, panes, allowance, unsure, freedom=freedom, whole=state.whole)
            evidence["p_value"] = min(p_value, p)
        finding = Finding(
            state.since_ms, pane.end_ms, loss.value, reference, bound.threshold, loss.n,
            cal.quality_severity(name, bound, loss.value), crossed, state.total <= limit / 2, evidence,
        )  # fmt: skip
        yield from self._look(Key("quality", name, "", "cusum"), finding, now_ms)

    def _river(self, pane: Window, name: str, loss: _Loss, now_ms: int) -> Iterator[Observation]:
        """River's other detectors on the standardised loss; before ADWIN, whose history is their state."""
        p = self.allowance.sequential
        if self._bank is None:
            self._bank = Bank(self.plan.spec.alarms.sequential, p, self.history)
        fresh = self._bank.update(loss.z)
        self.jumps = {**self.jumps, **{detector: (jump.before, jump.after) for detector, jump in fresh.items()}}
        for detector, jump in sorted(self.jumps.items()):
            history = [*self.history, loss.z]
            finding = self._jumped(detector, jump, pane, name, loss, history, new=detector in fresh)
            key = Key("quality", name, "", detector)
            yield from self._look(key, finding, now_ms)
            if key not in self.watches.open:
                self.jumps = {other: known for other, known in self.jumps.items() if other != detector}

    def _adaptive(self, pane: Window, name: str, loss: _Loss, now_ms: int) -> Iterator[Observation]:
        """ADWIN on the standardised loss: a change for the worse against what was, whatever the reference says."""
        if self._adwin is None:
            self._adwin = AdaptiveWindow(min(_ADWIN_DELTA, self.allowance.sequential), self.history)
        change = self._adwin.update(loss.z)
        self.history = self._adwin.history
        worse = change is not None and change.after - change.before > 0.5
        if worse and change is not None:
            self.jump = (change.before, change.after)
        if self.jump is None:
            return
        finding = self._jumped("adwin", self.jump, pane, name, loss, self.history, new=worse)
        key = Key("quality", name, "", "adwin")
        yield from self._look(key, finding, now_ms)
        if key not in self.watches.open:
            self.jump = None

    def _jumped(  # noqa: PLR0917
        self,
        detector: str,
        jump: tuple[float, float],
        pane: Window,
        name: str,
        loss: _Loss,
        history: Sequence[float],
        *,
        new: bool,
    ) -> Finding:
        """A change of the standardised loss as one of the metric; over once the loss is back on the better half.

        Notes
        -----
        An alarm says no more than that a limit was passed, which the detector was allowed with `p`. How unlikely the
        change is shows in the panes that follow: while the loss stays bad, it is looked at again.
        """
        bound = loss.bound
        sign = 1.0 if bound.upper else -1.0
        before, after = (bound.reference + sign * bound.error * of for of in jump)
        middle = (before + after) / 2
        severity = cal.quality_severity(name, cal.Bound(before, middle, bound.error, bound.upper), after)
        evidence = {
            "statistic": detector,
            "p": self.allowance.sequential,
            "before": round(before, 6),
            "after": round(after, 6),
        }
        good = loss.z < sum(jump) / 2
        crossed = new or not good
        if crossed:
            seen = max(change_p(history, loss.own_share), cal.SMALLEST_P)
            evidence["p_value"] = min(float(f"{seen:.3g}"), self.allowance.sequential)
        return Finding(
            pane.start_ms, pane.end_ms, loss.value, before, middle, loss.n, severity, crossed, good, evidence
        )

    # ----------------------------------------------------------------------------------------------- drift

    def traffic(
        self, window: Window, total: Counts, now_ms: int, measured: Measured | None = None
    ) -> Iterator[Observation]:
        """Compare features and predictions of a closed window with the reference.

        Parameters
        ----------
        measured : Measured, optional
            Of the equipment's `traffic`, where it is there already.
        """
        measured = self.equipment.traffic.measure(total) if measured is None else measured
        if self.since_ms < 0:
            self.since_ms = window.start_ms
        yield from self._inputs(measured, window, now_ms)

    def cells(self, window: Window, totals: Mapping[str, Counts], now_ms: int) -> Iterator[Observation]:
        """Compare the features that are watched in segments with the reference; totals as of `segments`."""
        table = self.equipment.cells
        if table.segments:
            yield from self._inputs(table.measure(totals), window, now_ms)

    def _inputs(self, measured: Measured, window: Window, now_ms: int) -> Iterator[Observation]:
        moved, broken = (set(rows) for rows in self.equipment.sheet(measured.table).shapes.unusual(measured))
        drifting = self._drifting(measured, window) | moved
        unusable = self._unusable_rows(measured, window) | broken
        # Few windows have anything to say: what is neither open nor near its bound costs nothing beyond the arrays.
        for row in sorted(drifting | unusable):
            if row in drifting:
                yield from self._drift(measured, row, window, now_ms, shaped=row in moved)
            if row in unusable:
                yield from self._unusable(measured, row, window, now_ms)

    def labels(
        self, window: Window, total: Counts, now_ms: int, measured: Measured | None = None
    ) -> Iterator[Observation]:
        """Compare the labels of a closed window with the reference; thin ones say nothing."""
        if not self.enough_labels(total):
            return
        measured = self.equipment.labels.measure(total) if measured is None else measured
        for row in sorted(self._drifting(measured, window)):
            yield from self._drift(measured, row, window, now_ms)

    def segments(self, name: str, window: Window, totals: Mapping[str, Counts], now_ms: int) -> Iterator[Observation]:
        """Compare predictions or labels of a closed window with the reference, segment by segment.

        Parameters
        ----------
        name : {"prediction", "label"}
        totals : mapping of str to array of int
            Counters of the window by segment.
        """
        table = self.equipment.by_segment[name]
        if not table.segments:
            return
        measured = table.measure(totals)
        near = self._beyond(measured, window)
        enough = measured.n >= cal.MINIMUM_TRAFFIC
        for row, segment in enumerate(table.segments):
            key = Key(table.table.subjects[row].kind, name, segment, window.name)
            if enough[row] and (row in near or key in self.watches.open):
                if name == "label" and not self.enough_labels(totals[segment], segment):
                    continue
                check = self._distance(measured, row, window, p=self.allowance.segment_drift)
                yield from self._answer(key, window, [check], measured, row, n=int(measured.n[row]), now_ms=now_ms)

    def verdicts(self, measured: Measured, window: Window) -> list[bool | None]:
        """Whether the deciding distance of each subject lies beyond its bound; None of too few values."""
        near = self._beyond(measured, window)
        return [
            None if n < cal.MINIMUM_TRAFFIC else row in near and self._distance(measured, row, window).crossed
            for row, n in enumerate(measured.n.tolist())
        ]

    def _distance(self, measured: Measured, row: int, window: Window, p: float | None = None) -> Check:
        """The distance that decides, beside its bound; computed once a window."""
        subject = measured.table.subjects[row]
        if row not in measured.checks:
            n = int(measured.n[row])

            def bound(p: float) -> cal.Bound:
                return cal.drift_bound(self.plan, subject, window.name, n=n, p=p)

            fixed = self.equipment.thresholds[subject.name] if p is None and not subject.segment else None

            def given(p: float) -> cal.Bound:
                return cal.explicit_bound(bound(p).reference, math.inf if fixed is None else fixed, upper=True)

            severity = partial(cal.drift_severity, measure=subject.measure)
            value = float(measured.deciding[row])
            at = bound if fixed is None else given
            allowed = self.equipment.sheet(measured.table).drift if p is None else p
            measured.checks[row] = Check(subject.measure, value, allowed, at, severity, fixed=fixed is not None)
        return measured.checks[row]

    def _drifting(self, measured: Measured, window: Window) -> set[int]:
        """Rows whose drift may be beyond its bound, or is an open observation."""
        still_open = self._open_rows(measured.table, window, drift=True)
        return self._beyond(measured, window) | {row for row in still_open if measured.n[row] >= cal.MINIMUM_TRAFFIC}

    def _beyond(self, measured: Measured, window: Window) -> set[int]:
        """Rows whose distance is farther from the usual than any bound is near to it; computed once a window."""
        if measured.beyond is None:
            measured.beyond = self._far(measured, window)
        return measured.beyond

    def _far(self, measured: Measured, window: Window) -> set[int]:
        table = measured.table
        if not table.subjects:
            return set()
        usual = cal.usual_drift(table.noise, measured.n, table.reference_n, self.equipment.excess(table, window.name))
        enough = measured.n >= cal.MINIMUM_TRAFFIC
        beyond = measured.deciding - table.told(usual) >= _NEARLY * table.least
        if self.plan.spec.alarms.thresholds:
            beyond |= measured.deciding > self.equipment.fixed(table)
        rows = set(np.flatnonzero(enough & beyond).tolist())
        like = self._like(measured, window)
        if like is not None:
            # The scatter of a whole year hides what is wrong inside a season: with a calendar, the season's counts.
            known = enough & ~np.isnan(like.psi)
            whole = cal.usual_distance(table.bins, measured.n, table.reference_n, like.excess)
            season = cal.usual_distance(table.bins, measured.n, like.rows, like.excess)
            beyond = like.psi - season >= _NEARLY * cal.LEAST_PSI
            if like.tells_whole:
                beyond |= measured.psi - whole >= _NEARLY * cal.LEAST_PSI
            rows |= set(np.flatnonzero(known & beyond).tolist())
        return rows

    def _unusable_rows(self, measured: Measured, window: Window) -> set[int]:
        table = measured.table
        if not len(table.features):
            return set()
        n = measured.n[table.features] + measured.lost
        enough = n >= cal.MINIMUM_TRAFFIC
        usual = self.equipment.sheet(table).usual_lost
        beyond = measured.lost / np.maximum(n, 1.0) - usual >= _NEARLY * np.minimum(cal.LEAST_UNUSABLE, 1.0 - usual)
        rows = set(table.features[enough & beyond].tolist())
        return rows | {row for row in self._open_rows(table, window, drift=False) if enough[row]}

    def _open_rows(self, table: SubjectTable, window: Window, *, drift: bool) -> Iterator[int]:
        for key in self.watches.open:
            row = table.rows.get(cell_name(key.subject, key.segment))
            if row is not None and key.window == window.name and drift == (key.kind not in _BROKEN):
                yield row

    def _drift(
        self, measured: Measured, row: int, window: Window, now_ms: int, *, shaped: bool = False
    ) -> Iterator[Observation]:
        subject = measured.table.subjects[row]
        n = int(measured.n[row])
        checks = self._distances(measured, row, window)
        key = Key(subject.kind, subject.name, subject.segment, window.name)
        if subject.slots is not None and (shaped or key in self.watches.open):
            sheet = self.equipment.sheet(measured.table)
            usual = self.equipment.usual(measured.table, window.name, row)
            checks += sheet.shapes.of_drift(measured, sheet.feature[row], usual, self.allowance.shape)
        if not checks:
            return
        yield from self._answer(key, window, checks, measured, row, n=n, now_ms=now_ms)

    def _seasonal(self, name: str) -> bool:
        seasons = self.plan.reference.seasons
        return seasons is not None and name in seasons.months

    def _like(self, measured: Measured, window: Window) -> Likeness | None:
        """How far a window lies from its season; None without a calendar. Computed once for a measured window."""
        calendar = self.equipment.calendars.get(id(measured.table))
        if calendar is None:
            return None
        if measured.like is None:
            measured.like = calendar.like(measured, window)
        return measured.like

    def _distances(self, measured: Measured, row: int, window: Window) -> list[Check]:
        """The distance that decides; where the season is known, PSI against it before.

        Notes
        -----
        Far from the season: that is drift, whether the whole reference is near or not. Near to it: what is far from the
        whole reference is the calendar's doing (`seasonal`), and no more than information. Of weekdays only the first
        is told.
        """
        plain = self._distance(measured, row, window)
        like = self._like(measured, window)
        short = {"reference_days": self.equipment.reference_days}
        if like is None:
            return [replace(plain, details=short)]
        subject = measured.table.subjects[row]
        if math.isnan(like.psi[row]):
            if not like.tells_whole:
                return [replace(plain, details=short)]
            # Of a segment whose seasons nobody knows, while those of the whole are known, no distance tells anything.
            return [] if subject.segment and self._seasonal(subject.name) else [plain]
        n, value = int(measured.n[row]), float(measured.psi[row])
        p, bins = self.equipment.sheet(measured.table).drift, subject.bins
        near, rows = float(like.psi[row]), float(like.rows[row])
        scatter = (float(like.excess[row]), float(like.dof[row]))
        season = Check("psi", near, p, partial(_season_bound, bins, n, rows, *scatter), cal.drift_severity)
        said = {
            "season": like.named(window.start_ms, window.end_ms),
            "season_psi": round(near, 6),
            "season_threshold": round(season.bound.threshold, 6),
            "whole_psi": round(value, 6),
        }
        if not like.tells_whole:
            # Like its weekday and far from the whole: that comes round every week.
            return [plain] if plain.fixed else [replace(season, details={**said, **short, "seasonal": False})]
        whole = replace(plain, severity=_information, details={**said, "seasonal": True})
        if subject.measure == "psi":
            # Without what the year itself scatters: that is what the season is to explain.
            whole = replace(whole, at=partial(_season_bound, bins, n, float(subject.reference_n), *scatter))
        return [replace(season, details={**said, "seasonal": False}), whole]

    def _unusable(self, measured: Measured, row: int, window: Window, now_ms: int) -> Iterator[Observation]:
        subject = measured.table.subjects[row]
        sheet = self.equipment.sheet(measured.table)
        at = sheet.feature[row]
        missing, invalid = (int(count) for count in measured.rest[at, :2])
        lost = missing + invalid
        n = int(measured.n[row]) + lost

        def bound(p: float) -> cal.Bound:
            return cal.unusable_bound(self.plan, subject, window.name, n=n, p=p)

        usual = self.equipment.usual(measured.table, window.name, row)
        counted: dict[str, Any] = {"missing": missing, "invalid": invalid}
        if lost >= _GONE * n:
            counted["schema"] = "absent" if missing >= invalid else "wrong type"
        checks = [
            Check("unusable_rate", lost / n, self.allowance.unusable, bound, cal.unusable_severity, counted),
            *sheet.shapes.of_quality(measured, at, usual, self.allowance.shape),
        ]
        key = Key(self._broken_kind(subject, window), subject.name, subject.segment, window.name)
        yield from self._answer(key, window, checks, measured, row, n=n, now_ms=now_ms)

    def _broken_kind(self, subject: Subject, window: Window) -> Kind:
        """Broken since the version answers: training and serving disagree; later: something broke.

        Notes
        -----
        What is open keeps its kind. Longer windows say what the shorter ones said.
        """
        name, segment = subject.name, subject.segment
        known: set[Kind] = {
            key.kind
            for key in self.watches.open
            if key.subject == name and key.segment == segment and key.kind in _BROKEN
        }
        for kind in _BROKEN:
            if Key(kind, name, segment, window.name) in self.watches.open or known == {kind}:
                return kind
        return "skew" if window.end_ms <= self.since_ms + FRESH_PANES * self.plan.pane_ms else "data-quality"

    def _answer(
        self,
        key: Key,
        window: Window,
        checks: list[Check],
        measured: Measured,
        row: int,
        *,
        n: int,
        now_ms: int,
    ) -> Iterator[Observation]:
        """One finding of all checks of a subject: the worst speaks, all have to recover."""
        crossed = [check for check in checks if check.crossed]
        if not crossed and key not in self.watches.open:
            return
        first = lead(checks)
        slots = measured.table.subjects[row].slots
        evidence: dict[str, Any] = {"statistic": first.statistic, **first.details}
        if not first.fixed:
            evidence["p"] = first.p
        if crossed and not first.fixed:
            # Each may take its own chance: the least likely of them speaks for all, in parts of what it was allowed.
            part = min(cal.least_p(check.at, check.value, check.p) / check.p for check in crossed if not check.fixed)
            evidence["p_value"] = first.p * part
        if key.kind not in _BROKEN:
            found = measured.statistics(row)
            numbers = {name: round(number, 6) for name, number in found.items() if number is not None}
            evidence |= {name: number for name, number in numbers.items() if name != first.statistic}
        if len(crossed) > 1:
            evidence["also"] = {check.statistic: round(check.value, 6) for check in crossed if check is not first}
        if slots is not None and self.equipment.importance:
            evidence["importance"] = round(self.equipment.importance.get(slots.name, 0.0), 4)
        finding = Finding(
            window.start_ms, window.end_ms, first.value, first.bound.reference, first.bound.threshold, n, first.grade,
            bool(crossed), all(check.recovered for check in checks), evidence,
        )  # fmt: skip
        yield from self._look(key, finding, now_ms)

    def segment(self, segment: str, window: Window, predicted: int, now_ms: int) -> Iterator[Observation]:
        """A segment that training never saw and that is no longer rare."""
        name = segment.partition("=")[0]
        known = self.plan.reference.segments
        if segment in known or not any(k.startswith(name + "=") for k in known):
            return
        least = cal.MINIMUM_TRAFFIC
        finding = Finding(
            window.start_ms, window.end_ms, float(predicted), 0.0, float(least), predicted, "warning",
            predicted >= least, predicted < least / 2, {"statistic": "predictions"},
        )  # fmt: skip
        yield from self._look(Key("new-segment", segment, segment, window.name), finding, now_ms)

    def forgotten(self, held: Container[str], now_ms: int, usual: Container[str] = ()) -> list[Observation]:
        """Close what is open in segments that nothing is known of any more: they sent nothing for so long.

        Parameters
        ----------
        held : container of str
            Segments of which there are panes.
        usual : container of str
            Segments whose usual volume is known: a silence lasts longer than their panes.
        """
        of_segments = [key for key in self.watches.open if key.segment]
        gone = [key for key in of_segments if key.subject != "volume" and key.segment not in held]
        lost = [key for key in of_segments if key.subject == "volume" and key.segment not in usual]
        return [
            *self.watches.close(gone, now_ms, "nothing comes from this segment any more"),
            *self.watches.close(lost, now_ms, "it was like this for four weeks: what comes now is usual"),
        ]

    # --------------------------------------------------------------------------------------------- shared

    def _judge(
        self,
        key: Key,
        window: Window,
        value: float,
        bound: cal.Bound,
        *,
        n: int,
        severity: Severity,
        evidence: dict[str, Any],
        now_ms: int,
        at: Callable[[float], cal.Bound | None] | None = None,
    ) -> Iterator[Observation]:
        """Look at a value; `at` gives the bound at any chance of a false crossing, where the test has such."""
        if at is not None and bound.crossed(value):
            evidence["p_value"] = cal.least_p(at, value, evidence["p"])
        finding = Finding(
            window.start_ms, window.end_ms, value, bound.reference, bound.threshold, n, severity,
            bound.crossed(value), bound.recovered(value), evidence,
        )  # fmt: skip
        yield from self._look(key, finding, now_ms)

    def _look(self, key: Key, finding: Finding, now_ms: int) -> Iterator[Observation]:
        observation = self.watches.look(key, finding, now_ms)
        if observation is not None:
            yield observation

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> DetectorState:
        """State as a struct; deterministic."""
        return DetectorState(
            open=[(*key, state) for key, state in sorted(self.watches.open.items())],
            coverage=list(self.coverage),
            coverages=dict(sorted(self.coverages.items())),
            pages={name: msgspec.structs.replace(one) for name, one in sorted(self.pages.items())},
            history=list(self.history),
            jump=self.jump,
            since_ms=self.since_ms,
            delays=list(self.delays),
            segment_delays=dict(sorted(self.segment_delays.items())),
            jumps=dict(sorted(self.jumps.items())),
            stable=StablePanes(list(self.stable.panes), self.stable.refined),
            estimate=self.estimates.snapshot(),
        )

    @classmethod
    def from_snapshot(cls, model: str, version: int, plan: PanePlan, state: DetectorState) -> Detectors:
        """The detectors that `snapshot` was taken of."""
        detectors = cls(model, version, plan, state.estimate)
        for kind, subject, segment, window, opened in state.open:
            detectors.watches.open[Key(kind, subject, segment, window)] = opened
        detectors.coverage = list(state.coverage)
        detectors.coverages = dict(state.coverages)
        detectors.pages = dict(state.pages)
        detectors.history = list(state.history)
        detectors.jump = state.jump
        detectors.since_ms = state.since_ms
        detectors.delays = list(state.delays)
        detectors.segment_delays = dict(state.segment_delays)
        detectors.jumps = dict(state.jumps)
        detectors.stable = state.stable
        if state.stable.refined:
            detectors.levels = refined_levels(plan.reference.metrics, plan.spec.judged, state.stable)
        return detectors


def _season_bound(bins: int, n: int, rows: float, excess: float, dof: float, p: float) -> cal.Bound:  # noqa: PLR0917
    return cal.distance_bound(bins, n, rows, excess=excess, dof=dof, p=p)


def _coverage_bound(usual: float, predicted: int, p: float) -> cal.Bound:
    return cal.coverage_bound(usual, THIN, n=predicted, p=p)


def _information(_bound: cal.Bound, _value: float) -> Severity:
    return "info"


def _estimate_at(
    name: str, level: MetricReference, *, n: int, panes: int, doubt: float
) -> Callable[[float], cal.Bound]:
    """Bound of an estimated metric by the chance of a false crossing."""
    return lambda p: cal.estimate_bound(name, level, n=n, panes=panes, p=p, doubt=doubt)


def _at(name: str, level: MetricReference, *, n: int, panes: int, noise: float) -> Callable[[float], cal.Bound]:
    """Bounds of a metric at any chance of a false crossing."""
    return lambda p: cal.quality_bound(name, level, n=n, panes=panes, p=p, noise=noise)
