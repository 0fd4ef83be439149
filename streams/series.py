"""One version's panes over time: effects settle pane by pane, windows close, open anew when corrected."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.codec import segment_of, utc
from schemas.events import DriftMetric, Observation, PaneDelta, QualityMetric, WindowState
from streams.detectors import Detectors, DetectorState
from streams.drift.subjects import observed, statistics
from streams.metrics.compute import compute
from streams.packed import unpack_counters
from streams.panes import PanePlan
from streams.windows import Window, lookback_ms, windows_ending

Counts = NDArray[np.int64]

MOST_NEW_SEGMENTS: Final = 100
"""Segments beyond those of the reference that are kept apart; more are counted together."""
OTHER_SEGMENTS: Final = "(other)"


@dataclass
class Closing:
    """What one boundary of one version brought."""

    quality: list[QualityMetric] = field(default_factory=list)
    drift: list[DriftMetric] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    """Ends of the panes that closed for quality."""


class SeriesState(msgspec.Struct, array_like=True):
    """Snapshot of a `Series`: arrays as positions (uint32) and values (int64)."""

    version: int
    layout: str
    panes: dict[str, dict[int, tuple[bytes, bytes]]]
    pending: dict[int, list[tuple[str, int, dict[int, int]]]]
    frontier: int | None
    closed_traffic: int
    closed_quality: int
    first_traffic: int
    last_traffic: int
    revisions: list[tuple[str, int, str, int]]
    ignored: int
    detectors: DetectorState


class Series:
    """Panes, windows and detectors of one version of a model.

    Parameters
    ----------
    model : str
    version : int
    plan : PanePlan

    Notes
    -----
    `add` only puts effects aside; `settle` and `close` are called for every boundary the watermark has passed, in
    order. What a window holds when it closes is a function of the effects before that boundary, not of the order they
    came in.
    """

    def __init__(self, model: str, version: int, plan: PanePlan) -> None:
        self.model = model
        self.version = version
        self.plan = plan
        self.panes: dict[str, dict[int, Counts]] = {}
        self.pending: dict[int, dict[tuple[str, int], dict[int, int]]] = {}
        self.frontier: int | None = None
        """Effects of panes before it are settled."""
        self.closed_traffic = 0
        self.closed_quality = 0
        self.first_traffic = self.last_traffic = -1
        """Starts of the oldest and the newest settled pane with traffic."""
        self.revisions: dict[tuple[str, int, str], int] = {}
        self.ignored = 0
        """Contributions to panes that are no longer kept."""
        self.detectors = Detectors(model, version, plan)
        self.dirty = False
        self._at = {name: plan.slots[name].start for name in ("predicted", "labelled")}
        self._lookback = lookback_ms(plan)

    # --------------------------------------------------------------------------------------------- effects

    def add(self, delta: PaneDelta) -> None:
        """Put a contribution aside until its effect's pane is complete."""
        effect = delta.effect_start_ms if self.frontier is None else max(delta.effect_start_ms, self.frontier)
        waiting = self.pending.setdefault(effect, {}).setdefault((delta.segment, delta.pane_start_ms), {})
        positions, counts = unpack_counters(delta.counters)
        for position, count in zip(positions.tolist(), counts.tolist(), strict=True):
            waiting[position] = waiting.get(position, 0) + count
        self.dirty = True

    def next_boundary(self) -> int | None:
        """End of the next pane whose effects are to settle; None when nothing is kept or waits."""
        if self.frontier is not None:
            return self.frontier + self.plan.pane_ms
        return min(self.pending) + self.plan.pane_ms if self.pending else None

    @property
    def over(self) -> bool:
        """Whether nothing is kept and nothing waits: the series can be forgotten."""
        return self.frontier is not None and not self.panes and not self.pending

    def labelled(self, pane_start: int) -> int:
        """Settled labelled predictions of a pane."""
        return self._count("", pane_start, "labelled")

    def settle(self, boundary: int) -> set[tuple[str, int]]:
        """Add the effects before `boundary` to their panes; which closed panes (segment, start) they touched."""
        if self.frontier is None:
            first = min(pane for waiting in self.pending.values() for _, pane in waiting)
            self.frontier = boundary - self.plan.pane_ms
            self.closed_traffic = self.closed_quality = min(first, self.frontier)
        touched: set[tuple[str, int]] = set()
        predicted = self._at["predicted"]
        oldest = self._correctable(boundary)
        for effect in sorted(effect for effect in self.pending if effect < boundary):
            waiting = self.pending.pop(effect)
            for (given, pane), counters in sorted(waiting.items()):
                segment = self._tracked(given)
                if pane < oldest and pane not in self.panes.get(segment, ()):
                    self.ignored += 1
                    continue
                counts = self._pane(segment, pane)
                positions = np.fromiter(counters.keys(), np.intp, len(counters))
                inside = positions < len(counts)
                amounts = np.fromiter(counters.values(), np.int64, len(counters))
                np.add.at(counts, positions[inside], amounts[inside])
                if not segment and counters.get(predicted, 0) > 0:
                    self.last_traffic = max(self.last_traffic, pane)
                    self.first_traffic = pane if self.first_traffic < 0 else min(self.first_traffic, pane)
                if pane < self.closed_quality:
                    touched.add((segment, pane))
        return touched

    def close(self, boundary: int, touched: set[tuple[str, int]], swaps: Collection[int] = ()) -> Closing:
        """Close what `boundary` closes, after `settle`, and send again what was touched.

        Parameters
        ----------
        touched : set of (segment, pane start)
        swaps : collection of int
            Starts of panes in which a version of the model came or went: one that holds a part of a day only says
            nothing about the day, and is not judged by itself.
        """
        out = Closing()
        self._revise(touched, out)
        self._close_quality(boundary, out, swaps)
        self._close_traffic(boundary, out, swaps)
        self.frontier = boundary
        self._forget(boundary)
        return out

    def _judged(self, window: Window, n: int, swaps: Collection[int]) -> bool:
        """Whether a window is whole: it neither begins before the version's first whole pane nor is cut by a swap."""
        if window.start_ms <= self.first_traffic or n < window.events:
            return False
        return window.end_ms - window.start_ms > self.plan.pane_ms or window.start_ms not in swaps

    def _tracked(self, segment: str) -> str:
        """The segment itself, or the one for all others where there are too many new ones."""
        known = self.plan.reference.segments
        if not segment or segment in self.panes or segment in known:
            return segment
        if sum(1 for key in self.panes if key and key not in known) < MOST_NEW_SEGMENTS:
            return segment
        return f"{segment.partition('=')[0]}={OTHER_SEGMENTS}"

    def _pane(self, segment: str, pane: int) -> Counts:
        panes = self.panes.setdefault(segment, {})
        counts = panes.get(pane)
        if counts is None:
            size = self.plan.segment_size if segment else self.plan.size
            counts = panes[pane] = np.zeros(size, dtype=np.int64)
        return counts

    def _correctable(self, boundary: int) -> int:
        """Start of the oldest pane that a correction may still touch."""
        plan = self.plan
        return boundary - 2 * plan.pane_ms - plan.max_label_delay_ms - plan.revision_horizon_ms

    def _forget(self, boundary: int) -> None:
        """Drop the panes that no window which may still be corrected can reach."""
        correctable = self._correctable(boundary)
        longest = max(self.plan.spec.time_windows.values(), default=self.plan.pane_ms)
        events = max(self.plan.spec.count_windows.values(), default=0)
        for segment in list(self.panes):
            panes = self.panes[segment]
            counted = 0
            for pane in sorted((p for p in panes if p < correctable), reverse=True):
                # Count windows keep what they need and a pane more, because corrections may take labels away.
                if pane < correctable - longest and (counted > events or pane < correctable - self._lookback):
                    del panes[pane]
                elif counted <= events:
                    counted += int(panes[pane][self._at["labelled"]]) if events else 1
            if not panes:
                del self.panes[segment]
        self.revisions = {key: count for key, count in self.revisions.items() if key[1] >= correctable}

    # --------------------------------------------------------------------------------------------- windows

    def _count(self, segment: str, pane: int, name: str) -> int:
        counts = self.panes.get(segment, {}).get(pane)
        return 0 if counts is None else int(counts[self._at[name]])

    def _sum(self, segment: str, window: Window) -> tuple[Counts, int]:
        """Counters of a window and in how many panes it has labels."""
        panes = self.panes.get(segment, {})
        total = np.zeros(self.plan.segment_size if segment else self.plan.size, dtype=np.int64)
        labelled = self._at["labelled"]
        filled = 0
        span = range(window.start_ms, window.end_ms, self.plan.pane_ms)
        for pane in span if len(span) < len(panes) else sorted(p for p in panes if p in span):
            counts = panes.get(pane)
            if counts is not None:
                total += counts
                filled += bool(counts[labelled])
        return total, filled

    def _windows(self, segment: str, end: int) -> list[Window]:
        labelled = self._at["labelled"]
        by_pane = {pane: int(counts[labelled]) for pane, counts in self.panes.get(segment, {}).items()}
        return windows_ending(self.plan, end, by_pane)

    def _segments(self) -> list[str]:
        """Overall first, then the segments in order."""
        return sorted(self.panes)

    def _metric(self, segment: str, window: Window, total: Counts, state: WindowState, revision: int) -> QualityMetric:
        predicted, labelled = int(total[self._at["predicted"]]), int(total[self._at["labelled"]])
        return QualityMetric(
            model=self.model,
            version=self.version,
            segment=segment_of(segment),
            window=window.name,
            window_start=utc(window.start_ms),
            window_end=utc(window.end_ms),
            state=state,
            revision=revision,
            n=labelled,
            coverage=min(labelled / predicted, 1.0) if predicted > 0 else 0.0,
            metrics=compute(self.plan, total),
        )

    def _close_quality(self, boundary: int, out: Closing, swaps: Collection[int]) -> None:
        pane_ms = self.plan.pane_ms
        last = (boundary - self.plan.max_label_delay_ms) // pane_ms * pane_ms
        while self.closed_quality < last:
            end = self.closed_quality + pane_ms
            self.closed_quality = end
            out.closed.append(end)
            if self._count("", end - pane_ms, "predicted") <= 0:
                continue  # nothing was predicted: the last windows stand
            for segment in self._segments():
                for window in self._windows(segment, end):
                    total, filled = self._sum(segment, window)
                    if total[self._at["predicted"]] <= 0:
                        continue
                    metric = self._metric(segment, window, total, "closed", 0)
                    out.quality.append(metric)
                    if self._judged(window, metric.n, swaps):
                        out.observations += self.detectors.quality(
                            segment, window, metric, total=total, filled=filled, now_ms=boundary
                        )
            pane = Window("pane", end - pane_ms, end)
            if self._judged(pane, 0, swaps):
                out.observations += self.detectors.pane(pane, self._sum("", pane)[0], boundary)
            for window in self._timed(end):
                total, _ = self._sum("", window)
                out.drift += self._drift(window, total, ("label",), "closed", 0)
                if self._judged(window, 0, swaps):
                    out.observations += self.detectors.labels(window, total, boundary)

    def _close_traffic(self, boundary: int, out: Closing, swaps: Collection[int]) -> None:
        pane_ms = self.plan.pane_ms
        while self.closed_traffic < boundary:
            end = self.closed_traffic + pane_ms
            self.closed_traffic = end
            if self._count("", end - pane_ms, "predicted") <= 0:
                continue
            for window in self._timed(end):
                total, _ = self._sum("", window)
                out.drift += self._drift(window, total, None, "closed", 0)
                if self._judged(window, 0, swaps):
                    out.observations += self.detectors.traffic(window, total, boundary)
            longest = max(self._timed(end), key=lambda window: window.end_ms - window.start_ms)
            for segment in self._segments():
                if segment:
                    total, _ = self._sum(segment, longest)
                    out.observations += self.detectors.segment(
                        segment, longest, int(total[self._at["predicted"]]), boundary
                    )

    def _timed(self, end: int) -> list[Window]:
        """Windows that drift is measured in: the time windows, the pane where there are none."""
        windows = [window for window in windows_ending(self.plan, end, {}) if window.timed]
        return windows or [Window("pane", end - self.plan.pane_ms, end)]

    def _drift(
        self, window: Window, total: Counts, names: Iterable[str] | None, state: WindowState, revision: int
    ) -> Iterator[DriftMetric]:
        """Drift of the named subjects; None: all that close with the traffic."""
        for subject in self.detectors.subjects:
            if (subject.name == "label") if names is None else (subject.name not in names):
                continue
            counts = observed(self.plan, subject, total)
            yield DriftMetric(
                model=self.model,
                version=self.version,
                segment=None,
                subject=subject.name,
                window=window.name,
                window_start=utc(window.start_ms),
                window_end=utc(window.end_ms),
                state=state,
                revision=revision,
                n=int(counts.sum()),
                statistics=statistics(subject, counts, total),
            )

    def _revise(self, touched: set[tuple[str, int]], out: Closing) -> None:
        """Send again the closed windows that hold a pane which an effect changed."""
        pane_ms = self.plan.pane_ms
        longest = max(self.plan.spec.time_windows.values(), default=pane_ms)
        events = max(self.plan.spec.count_windows.values(), default=0)
        reach: dict[tuple[str, int], set[int]] = {}
        for segment, pane in touched:
            newer = 0
            for end in range(pane + pane_ms, min(pane + self._lookback, self.closed_quality) + 1, pane_ms):
                newer += self._count(segment, end - pane_ms, "labelled") if end > pane + pane_ms else 0
                if end > pane + longest and newer > events:
                    break  # no window that ends here or later looks back so far
                reach.setdefault((segment, end), set()).add(pane)
        for (segment, end), panes in sorted(reach.items()):
            if self._count("", end - pane_ms, "predicted") <= 0:
                continue
            for window in self._windows(segment, end):
                # A withdrawn label makes count windows longer: the pane itself may only now be inside, or just outside.
                start = window.start_ms if window.timed else window.start_ms - pane_ms
                if not any(start <= pane < end for pane in panes):
                    continue
                total, _ = self._sum(segment, window)
                if total[self._at["predicted"]] > 0:
                    revision = self._next_revision(window, segment)
                    out.quality.append(self._metric(segment, window, total, "revised", revision))
                    if not segment and window.timed:
                        out.drift += self._drift(window, total, ("label",), "revised", revision)

    def _next_revision(self, window: Window, segment: str) -> int:
        key = (window.name, window.end_ms, segment)
        self.revisions[key] = self.revisions.get(key, 0) + 1
        return self.revisions[key]

    # ----------------------------------------------------------------------------------------- provisional

    def provisional(self) -> list[QualityMetric]:
        """The newest windows as they stand, with what has not settled yet; empty when nothing changed."""
        if not self.dirty:
            return []
        self.dirty = False
        waiting: dict[str, dict[int, list[dict[int, int]]]] = {}
        newest = self.last_traffic
        for effects in self.pending.values():
            for (segment, pane), counters in effects.items():
                waiting.setdefault(segment, {}).setdefault(pane, []).append(counters)
                if not segment and counters.get(self._at["predicted"], 0) > 0:
                    newest = max(newest, pane)
        if newest < 0:
            return []
        end = newest + self.plan.pane_ms
        out = []
        labelled_at = self._at["labelled"]
        for segment in sorted(set(self.panes) | set(waiting)):
            labelled = {pane: int(counts[labelled_at]) for pane, counts in self.panes.get(segment, {}).items()}
            for pane, contributions in waiting.get(segment, {}).items():
                labelled[pane] = labelled.get(pane, 0) + sum(c.get(labelled_at, 0) for c in contributions)
            for window in windows_ending(self.plan, end, labelled):
                total, _ = self._sum(segment, window)
                for pane, contributions in waiting.get(segment, {}).items():
                    if window.start_ms <= pane < window.end_ms:
                        for counters in contributions:
                            for position, count in counters.items():
                                if position < len(total):
                                    total[position] += count
                if total[self._at["predicted"]] > 0:
                    out.append(self._metric(segment, window, total, "provisional", 0))
        return out

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> SeriesState:
        """State as a struct; deterministic."""
        packed = {
            segment: {pane: _pack(counts) for pane, counts in sorted(panes.items())}
            for segment, panes in sorted(self.panes.items())
        }
        pending = {
            effect: [(segment, pane, dict(sorted(c.items()))) for (segment, pane), c in sorted(waiting.items())]
            for effect, waiting in sorted(self.pending.items())
        }
        return SeriesState(
            version=self.version,
            layout=self.plan.layout,
            panes=packed,
            pending=pending,
            frontier=self.frontier,
            closed_traffic=self.closed_traffic,
            closed_quality=self.closed_quality,
            first_traffic=self.first_traffic,
            last_traffic=self.last_traffic,
            revisions=[(*key, count) for key, count in sorted(self.revisions.items())],
            ignored=self.ignored,
            detectors=self.detectors.snapshot(),
        )

    @classmethod
    def from_snapshot(cls, model: str, state: SeriesState, plan: PanePlan) -> Series:
        """The series that `snapshot` was taken of."""
        series = cls(model, state.version, plan)
        for segment, panes in state.panes.items():
            size = plan.segment_size if segment else plan.size
            series.panes[segment] = {pane: _unpack(packed, size) for pane, packed in panes.items()}
        for effect, waiting in state.pending.items():
            series.pending[effect] = {(segment, pane): counters for segment, pane, counters in waiting}
        series.frontier = state.frontier
        series.closed_traffic = state.closed_traffic
        series.closed_quality = state.closed_quality
        series.first_traffic = state.first_traffic
        series.last_traffic = state.last_traffic
        series.revisions = {(name, end, segment): count for name, end, segment, count in state.revisions}
        series.ignored = state.ignored
        series.detectors = Detectors.from_snapshot(model, state.version, plan, state.detectors)
        series.dirty = True
        return series


def _pack(counts: Counts) -> tuple[bytes, bytes]:
    positions = np.flatnonzero(counts)
    return positions.astype("<u4").tobytes(), counts[positions].astype("<i8").tobytes()


def _unpack(packed: tuple[bytes, bytes], size: int) -> Counts:
    counts = np.zeros(size, dtype=np.int64)
    counts[np.frombuffer(packed[0], "<u4").astype(np.intp)] = np.frombuffer(packed[1], "<i8")
    return counts
