"""One version's panes over time: effects settle pane by pane, windows close, open anew when corrected.

There may be tens of thousands of these in one process: counters stay packed (`streams.packed`) until their sums are
asked for, the plan is handed in where it is needed, and detectors are built from their state for a closing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.codec import segment_of, utc
from schemas.events import DriftMetric, Estimate, Observation, PaneDelta, QualityMetric, WindowState
from streams.detection import Key, Watches
from streams.detectors import Detectors, DetectorState
from streams.drift.table import Measured
from streams.estimate.estimates import Estimated
from streams.metrics.compute import compute
from streams.packed import add_packed, pack_dense
from streams.panes import PanePlan
from streams.pending import Pending
from streams.versions import Versions
from streams.windows import PANE, Frame, Window, stepped_windows_ending, windows_ending, windows_open

Counts = NDArray[np.int64]
Touched = tuple[str, int]
"""(segment, pane start)."""

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


class Pane(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Settled counters of one pane of one segment, packed, and the two that are asked for most."""

    counters: bytes
    predicted: int
    labelled: int


class SeriesState(msgspec.Struct, array_like=True):
    """All of a `Series` but what follows from its plan; it shares only what never changes with the series."""

    version: int
    layout: str
    frame: int
    panes: dict[str, dict[int, Pane]]
    pending: list[tuple[int, str, int, tuple[bytes, ...]]]
    frontier: int | None
    closed_traffic: int
    closed_quality: int
    first_traffic: int
    last_traffic: int
    revisions: list[tuple[str, int, str, int]]
    ignored: int
    detectors: bytes


class Series:
    """Panes, windows and detectors of one version of a model.

    Parameters
    ----------
    model : str
    version : int
    layout : str
        Of the version's plan.
    frame : Frame
        Of the version's plan; methods that need more take the plan itself.
    pending : Pending, optional
        Where effects wait.

    Notes
    -----
    `add` only puts effects aside; `settle` and `close` are called for every boundary the watermark has passed, in
    order. What a window holds when it closes is a function of the effects before that boundary, not of the order they
    came in.
    """

    __slots__ = (
        "_live",
        "closed_quality",
        "closed_traffic",
        "detectors",
        "first_traffic",
        "frame",
        "frontier",
        "ignored",
        "last_traffic",
        "layout",
        "model",
        "panes",
        "pending",
        "revisions",
        "version",
    )

    def __init__(self, model: str, version: int, layout: str, frame: Frame, pending: Pending | None = None) -> None:
        self.model = model
        self.version = version
        self.layout = layout
        self.frame = frame
        self.panes: dict[str, dict[int, Pane]] = {}
        self.pending = Pending() if pending is None else pending
        self.frontier: int | None = None
        """Effects of panes before it are settled."""
        self.closed_traffic = 0
        self.closed_quality = 0
        self.first_traffic = self.last_traffic = -1
        """Starts of the oldest and the newest settled pane with traffic."""
        self.revisions: dict[tuple[str, int, str], int] = {}
        self.ignored = 0
        """Contributions to panes that are no longer kept."""
        self.detectors = b""
        """Packed `DetectorState`; empty before anything was judged."""
        self._live: Detectors | None = None

    # --------------------------------------------------------------------------------------------- effects

    def add(self, delta: PaneDelta) -> None:
        """Put a contribution aside until its effect's pane is complete."""
        self.pending.add(delta.effect_start_ms, delta.segment, delta.pane_start_ms, delta.counters)

    def next_boundary(self) -> int | None:
        """End of the next pane whose effects are to settle; None when nothing is kept or waits."""
        if self.frontier is not None:
            return self.frontier + self.frame.pane_ms
        first = self.pending.first()
        return None if first is None else first + self.frame.pane_ms

    @property
    def over(self) -> bool:
        """Whether nothing is kept and nothing waits: the series can be forgotten."""
        return self.frontier is not None and not self.panes and not self.pending

    def settle(self, plan: PanePlan, boundary: int) -> set[Touched]:
        """Add the effects before `boundary` to their panes; which closed panes they touched."""
        frame = self.frame
        if self.frontier is None:
            first = min(pane for (_, _, pane), _ in self.pending.waiting())
            self.frontier = boundary - frame.pane_ms
            self.closed_traffic = self.closed_quality = min(first, self.frontier)
        touched: set[Touched] = set()
        oldest = self._correctable(boundary)
        sums: dict[Touched, Counts] = {}
        for (_, given, pane), merged in self.pending.settle(boundary):
            if not merged:
                continue  # they cancelled out: in one commit, they would not even have been sent
            segment = self._tracked(given, plan)
            kept = self.panes.get(segment, {}).get(pane)
            if kept is None and pane < oldest:
                self.ignored += 1
                continue
            at = (segment, pane)
            if at not in sums:
                sums[at] = np.zeros(frame.size_of(segment), np.int64)
                if kept is None:
                    self.panes.setdefault(segment, {})[pane] = Pane(b"", 0, 0)
                else:
                    add_packed(sums[at], [kept.counters])
            before = sums[at][frame.predicted]
            add_packed(sums[at], [merged])
            if not segment and sums[at][frame.predicted] > before:
                self.last_traffic = max(self.last_traffic, pane)
                self.first_traffic = pane if self.first_traffic < 0 else min(self.first_traffic, pane)
            if pane < self.closed_quality:
                touched.add(at)
        for (segment, pane), counts in sums.items():
            self.panes[segment][pane] = Pane(
                pack_dense(counts), int(counts[frame.predicted]), int(counts[frame.labelled])
            )
        return touched

    def close(
        self, plan: PanePlan, boundary: int, touched: set[Touched], versions: Versions, *, keep: bool = True
    ) -> Closing:
        """Close what `boundary` closes, after `settle`, and send again what was touched.

        Parameters
        ----------
        plan : PanePlan
        boundary : int
        touched : set of (segment, pane start)
        versions : Versions
            Of the model, this one among them.
        keep : bool
            Keep the detectors for the next closing, which saves building them again; costs some 20 kB.
        """
        out = Closing()
        if self._live is None or self._live.plan is not plan:
            self._live = self._built(plan)
        self._revise(self._live, touched, out)
        self._close_quality(self._live, boundary, out, versions.swaps)
        self._close_traffic(self._live, boundary, out, versions)
        self._forget(boundary)
        out.observations += self._live.forgotten(self.panes, boundary, versions.segments)
        self.detectors = msgspec.msgpack.encode(self._live.snapshot())
        if not keep:
            self._live = None
        self.frontier = boundary
        return out

    def _built(self, plan: PanePlan) -> Detectors:
        if not self.detectors:
            return Detectors(self.model, self.version, plan)
        state = msgspec.msgpack.decode(self.detectors, type=DetectorState)
        return Detectors.from_snapshot(self.model, self.version, plan, state)

    @property
    def alarmed(self) -> bool:
        """Whether an observation is open."""
        return bool(self.detectors) and bool(msgspec.msgpack.decode(self.detectors, type=DetectorState).open)

    def silence(self, boundary: int, reason: str) -> list[Observation]:
        """Close every open observation, because the version no longer answers."""
        if not self.alarmed:
            return []
        state = msgspec.msgpack.decode(self.detectors, type=DetectorState)
        watches = Watches(self.model, self.version)
        watches.open = {
            Key(kind, subject, segment, window): opened for kind, subject, segment, window, opened in state.open
        }
        out = watches.close_all(boundary, reason)
        self.detectors = msgspec.msgpack.encode(msgspec.structs.replace(state, open=[]))
        self._live = None
        return out

    def _judged(self, window: Window, n: int, swaps: Collection[int]) -> bool:
        """Whether a window is whole: it neither begins before the version's first whole pane nor is cut by a swap."""
        if window.start_ms <= self.first_traffic or n < window.events:
            return False
        gone = self.last_traffic
        if window.stepped and any(gone <= swap < window.end_ms and swap > self.first_traffic for swap in swaps):
            return False
        return window.end_ms - window.start_ms > self.frame.pane_ms or window.start_ms not in swaps

    def _tracked(self, segment: str, plan: PanePlan) -> str:
        """The segment itself, or the one for all others where there are too many new ones."""
        if not segment or segment in self.panes:
            return segment
        known = plan.reference.segments
        if segment in known or sum(1 for key in self.panes if key and key not in known) < MOST_NEW_SEGMENTS:
            return segment
        return f"{segment.partition('=')[0]}={OTHER_SEGMENTS}"

    def _correctable(self, boundary: int) -> int:
        """Start of the oldest pane that a correction may still touch."""
        frame = self.frame
        return boundary - 2 * frame.pane_ms - frame.max_label_delay_ms - frame.revision_horizon_ms

    def _forget(self, boundary: int) -> None:
        """Drop the panes that no window which may still be corrected can reach."""
        correctable = self._correctable(boundary)
        longest, events, lookback = self.frame.longest_ms, self.frame.events, self.frame.lookback_ms
        for segment in list(self.panes):
            panes = self.panes[segment]
            counted = 0
            for pane in sorted((p for p in panes if p < correctable), reverse=True):
                # Count windows keep what they need and a pane more, because corrections may take labels away.
                if pane < correctable - longest and (counted > events or pane < correctable - lookback):
                    del panes[pane]
                elif counted <= events:
                    counted += panes[pane].labelled if events else 1
            if not panes:
                del self.panes[segment]
        self.revisions = {key: count for key, count in self.revisions.items() if key[1] >= correctable}

    # --------------------------------------------------------------------------------------------- windows

    def _predicted(self, pane: int) -> int:
        held = self.panes.get("", {}).get(pane)
        return 0 if held is None else held.predicted

    def _sum(self, segment: str, window: Window) -> tuple[Counts, int]:
        """Counters of a window and in how many panes it has labels."""
        panes = self.panes.get(segment, {})
        total = np.zeros(self.frame.size_of(segment), np.int64)
        held = [pane for start, pane in panes.items() if window.start_ms <= start < window.end_ms]
        add_packed(total, [pane.counters for pane in held])
        return total, sum(1 for pane in held if pane.labelled)

    def _windows(self, segment: str, end: int) -> list[Window]:
        """Windows to tell at `end`: where its pane has no traffic, the last of those without a step stand."""
        if self._predicted(end - self.frame.pane_ms) <= 0:
            return stepped_windows_ending(self.frame, end)
        by_pane = {pane: held.labelled for pane, held in self.panes.get(segment, {}).items()}
        return windows_ending(self.frame, end, by_pane)

    def _segments(self) -> list[str]:
        """Overall first, then the segments in order."""
        return sorted(self.panes)

    def _metric(
        self, plan: PanePlan, segment: str, window: Window, total: Counts, *, state: WindowState, revision: int = 0
    ) -> QualityMetric:
        predicted, labelled = int(total[self.frame.predicted]), int(total[self.frame.labelled])
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
            metrics={**compute(plan, total)},
        )

    def _close_quality(self, detectors: Detectors, boundary: int, out: Closing, swaps: Collection[int]) -> None:
        pane_ms = self.frame.pane_ms
        last = (boundary - self.frame.max_label_delay_ms) // pane_ms * pane_ms
        while self.closed_quality < last:
            end = self.closed_quality + pane_ms
            self.closed_quality = end
            out.closed.append(end)
            if not self._told_at(end):
                continue
            for segment in self._segments():
                for window in self._windows(segment, end):
                    total, filled = self._sum(segment, window)
                    if total[self.frame.predicted] <= 0:
                        continue
                    metric = self._metric(detectors.plan, segment, window, total, state="closed")
                    out.quality.append(metric)
                    out.quality += self._reconciled(detectors, segment, window, metric)
                    if self._judged(window, metric.n, swaps):
                        out.observations += detectors.quality(
                            segment, window, metric, total=total, filled=filled, now_ms=boundary
                        )
            pane = Window(PANE, end - pane_ms, end)
            if self._predicted(pane.start_ms) > 0:
                counts, _ = self._sum("", pane)
                if self._judged(pane, 0, swaps):
                    held = {key: panes[pane.start_ms] for key, panes in self.panes.items() if pane.start_ms in panes}
                    labels = {key: (of.predicted, of.labelled) for key, of in held.items()}
                    out.observations += detectors.covered(pane, labels, boundary)
                    out.observations += detectors.pane(pane, counts, boundary)
                    totals = {key: self._sum(key, pane)[0] for key in detectors.busy(labels)}
                    out.observations += detectors.delayed(pane, totals, boundary)
                usable = detectors.enough_labels(counts)
                parts = self._parts(detectors, pane) if usable else {}
                parts = {key: of for key, of in parts.items() if detectors.enough_labels(of, key)}
                detectors.estimates.learn(end, counts, usable=usable, parts=parts)
            for window, total in self._timed(end):
                measured = detectors.equipment.labels.measure(total)
                out.drift += self._drift(measured, window, detectors.verdicts(measured, window), state="closed")
                if self._judged(window, 0, swaps):
                    out.observations += detectors.labels(window, total, boundary, measured)
                    out.observations += self._by_segment(detectors, "label", window, boundary, {})

    def _close_traffic(self, detectors: Detectors, boundary: int, out: Closing, versions: Versions) -> None:
        pane_ms, swaps = self.frame.pane_ms, versions.swaps
        steadiest = self.frame.steadiest
        while self.closed_traffic < boundary:
            end = self.closed_traffic + pane_ms
            self.closed_traffic = end
            pane = Window(PANE, end - pane_ms, end)
            if versions.watches_volume(self) and self._judged(pane, 0, swaps):
                out.observations += detectors.volume(pane, versions, boundary)
                out.observations += detectors.volumes(pane, versions, boundary)
            if not self._told_at(end):
                continue
            windows = list(self._timed(end))
            for (window, total), found in zip(windows, detectors.estimates.make(windows), strict=True):
                measured = detectors.equipment.traffic.measure(total)
                out.drift += self._drift(measured, window, detectors.verdicts(measured, window), state="closed")
                judged = self._judged(window, 0, swaps)
                parts = {} if found is None else self._parts(detectors, window)
                if judged:
                    out.observations += detectors.traffic(window, total, boundary, measured)
                    out.observations += self._by_segment(detectors, "prediction", window, boundary, parts)
                    out.observations += self._by_cell(detectors, window, boundary, parts)
                if found is not None:
                    out.quality.append(self._estimated("", window, found, int(total[self.frame.labelled])))
                    if judged:
                        out.observations += detectors.estimated(window, found, boundary)
                    for segment, of_part in detectors.estimates.make_parts(window, total, parts).items():
                        labelled = int(parts[segment][self.frame.labelled])
                        out.quality.append(self._estimated(segment, window, of_part, labelled))
            # One that came is news once, so new segments are looked for in one window only.
            for window in [window for window, _ in windows if window.name == steadiest]:
                for segment in self._segments():
                    if segment:
                        held = self.panes[segment].items()
                        predicted = sum(p.predicted for at, p in held if window.start_ms <= at < window.end_ms)
                        out.observations += detectors.segment(segment, window, predicted, boundary)

    def _by_segment(
        self, detectors: Detectors, name: str, window: Window, boundary: int, summed: Mapping[str, Counts]
    ) -> Iterator[Observation]:
        """Drift of predictions or labels in the segments that the reference knows; some are `summed` already."""
        known = detectors.equipment.by_segment[name].segments
        return detectors.segments(name, window, self._sums(known, window, summed), boundary)

    def _by_cell(
        self, detectors: Detectors, window: Window, boundary: int, summed: Mapping[str, Counts]
    ) -> Iterator[Observation]:
        """Features in the segments that they are watched in."""
        return detectors.cells(window, self._sums(detectors.equipment.cells.segments, window, summed), boundary)

    def _sums(self, segments: Collection[str], window: Window, summed: Mapping[str, Counts]) -> dict[str, Counts]:
        """Counters of segments that have any; some are `summed` already."""
        return {
            segment: summed[segment] if segment in summed else self._sum(segment, window)[0]
            for segment in segments
            if segment in self.panes
        }

    def _parts(self, detectors: Detectors, window: Window) -> dict[str, Counts]:
        """Counters of the segments that are estimated."""
        return {key: self._sum(key, window)[0] for key in detectors.estimates.segments if key in self.panes}

    def _estimated(
        self, segment: str, window: Window, found: Estimated, labelled: int, realised: QualityMetric | None = None
    ) -> QualityMetric:
        return QualityMetric(
            model=self.model,
            version=self.version,
            segment=segment_of(segment),
            window=window.name,
            window_start=utc(window.start_ms),
            window_end=utc(window.end_ms),
            state="closed" if realised is None else "revised",
            revision=0 if realised is None else 1,
            n=found.n,
            coverage=min(labelled / found.n, 1.0),
            metrics={name: guess.value for name, guess in found.guesses.items()},
            estimated=True,
            estimate=Estimate(
                intervals=found.intervals,
                trust=found.trust,
                realised=None if realised is None else {name: realised.metrics.get(name) for name in found.guesses},
                labelled=None if realised is None else realised.n,
            ),
        )

    def _reconciled(
        self, detectors: Detectors, segment: str, window: Window, metric: QualityMetric
    ) -> list[QualityMetric]:
        """The estimate of a window again, beside what its labels say."""
        if not window.timed and self.frame.time_windows:
            return []
        estimates = detectors.estimates
        if segment:
            found = estimates.reconcile_part(window, segment, metric.metrics, metric.n)
        else:
            found = estimates.reconcile(window, metric.metrics, metric.n)
        return [] if found is None else [self._estimated(segment, window, found, metric.n, metric)]

    def _told_at(self, end: int) -> bool:
        """Whether any window may have to be told that ends here."""
        return self._predicted(end - self.frame.pane_ms) > 0 or bool(stepped_windows_ending(self.frame, end))

    def _timed(self, end: int) -> Iterator[tuple[Window, Counts]]:
        """Windows that drift is measured in, with their counters: those of time, the pane where there are none."""
        if self.frame.time_windows:
            windows = [window for window in self._windows("", end) if window.timed]
        else:
            windows = [Window(PANE, end - self.frame.pane_ms, end)]
        for window in windows:
            total, _ = self._sum("", window)
            if total[self.frame.predicted] > 0:
                yield window, total

    def _drift(
        self,
        measured: Measured,
        window: Window,
        verdicts: list[bool | None],
        *,
        state: WindowState,
        revision: int = 0,
    ) -> Iterator[DriftMetric]:
        """Drift of every subject that was measured."""
        start, end = utc(window.start_ms), utc(window.end_ms)
        for row, subject in enumerate(measured.table.subjects):
            yield DriftMetric(
                model=self.model,
                version=self.version,
                segment=None,
                subject=subject.name,
                window=window.name,
                window_start=start,
                window_end=end,
                state=state,
                revision=revision,
                n=int(measured.n[row]),
                statistics=measured.statistics(row),
                decides=subject.measure,
                drifted=verdicts[row],
            )

    def _revise(self, detectors: Detectors, touched: set[Touched], out: Closing) -> None:
        """Send again the closed windows that hold a pane which an effect changed."""
        pane_ms = self.frame.pane_ms
        longest, events, lookback = self.frame.longest_ms, self.frame.events, self.frame.lookback_ms
        reach: dict[tuple[str, int], set[int]] = {}
        for segment, pane in touched:
            panes = self.panes.get(segment, {})
            newer = 0
            for end in range(pane + pane_ms, min(pane + lookback, self.closed_quality) + 1, pane_ms):
                last = panes.get(end - pane_ms)
                newer += last.labelled if last is not None and end > pane + pane_ms else 0
                if end > pane + longest and newer > events:
                    break  # no window that ends here or later looks back so far
                reach.setdefault((segment, end), set()).add(pane)
        for (segment, end), changed in sorted(reach.items()):
            for window in self._windows(segment, end):
                # A withdrawn label makes count windows longer: the pane itself may only now be inside, or just outside.
                start = window.start_ms if window.timed else window.start_ms - pane_ms
                if not any(start <= pane < end for pane in changed):
                    continue
                total, _ = self._sum(segment, window)
                if total[self.frame.predicted] > 0:
                    revision = self._next_revision(window, segment)
                    metric = self._metric(detectors.plan, segment, window, total, state="revised", revision=revision)
                    out.quality.append(metric)
                    if not segment and window.timed:
                        measured = detectors.equipment.labels.measure(total)
                        out.drift += self._drift(
                            measured, window, detectors.verdicts(measured, window), state="revised", revision=revision
                        )

    def _next_revision(self, window: Window, segment: str) -> int:
        key = (window.name, window.end_ms, segment)
        self.revisions[key] = self.revisions.get(key, 0) + 1
        return self.revisions[key]

    # ----------------------------------------------------------------------------------------- provisional

    def provisional(self, plan: PanePlan) -> list[QualityMetric]:
        """The newest windows as they stand, with what has not settled yet; changes nothing."""
        frame = self.frame
        waiting: dict[str, dict[int, list[bytes]]] = {}
        for (_, segment, pane), merged in self.pending.waiting():
            waiting.setdefault(segment, {}).setdefault(pane, []).append(merged)
        sums: dict[Touched, Counts] = {}
        for segment, by_pane in waiting.items():
            for pane, contributions in by_pane.items():
                counts = sums[segment, pane] = np.zeros(frame.size_of(segment), np.int64)
                add_packed(counts, contributions)
        fresh = [pane for (segment, pane), counts in sums.items() if not segment and counts[frame.predicted] > 0]
        newest = max([self.last_traffic, *fresh])
        if newest < 0:
            return []
        end = newest + frame.pane_ms
        out = []
        for segment in sorted(set(self.panes) | set(waiting)):
            labelled = {pane: held.labelled for pane, held in self.panes.get(segment, {}).items()}
            for pane in waiting.get(segment, ()):
                labelled[pane] = labelled.get(pane, 0) + int(sums[segment, pane][frame.labelled])
            for window in windows_open(frame, end, labelled):
                total, _ = self._sum(segment, window)
                for pane in waiting.get(segment, ()):
                    if window.start_ms <= pane < window.end_ms:
                        total += sums[segment, pane]
                if total[frame.predicted] > 0:
                    out.append(self._metric(plan, segment, window, total, state="provisional"))
        return out

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self, frame: int = 0, *, pending: bool = True) -> SeriesState:
        """State as a struct, cheaply; the same effects in the same order give an equal one.

        Parameters
        ----------
        frame : int
            Where the whole snapshot keeps the frame.
        pending : bool
            With what waits.
        """
        return SeriesState(
            version=self.version,
            layout=self.layout,
            frame=frame,
            panes={segment: dict(sorted(panes.items())) for segment, panes in sorted(self.panes.items())},
            pending=[(*key, (merged,)) for key, merged in self.pending.waiting()] if pending else [],
            frontier=self.frontier,
            closed_traffic=self.closed_traffic,
            closed_quality=self.closed_quality,
            first_traffic=self.first_traffic,
            last_traffic=self.last_traffic,
            revisions=[(*key, count) for key, count in sorted(self.revisions.items())],
            ignored=self.ignored,
            detectors=self.detectors,
        )

    @classmethod
    def from_snapshot(cls, model: str, state: SeriesState, frame: Frame, pending: Pending) -> Series:
        """The series that `snapshot` was taken of; what waits is in `pending` already."""
        series = cls(model, state.version, state.layout, frame, pending)
        series.panes = state.panes
        series.frontier = state.frontier
        series.closed_traffic = state.closed_traffic
        series.closed_quality = state.closed_quality
        series.first_traffic = state.first_traffic
        series.last_traffic = state.last_traffic
        series.revisions = {(name, end, segment): count for name, end, segment, count in state.revisions}
        series.ignored = state.ignored
        series.detectors = state.detectors
        return series
