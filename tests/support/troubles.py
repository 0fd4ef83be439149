"""Streams in which one thing goes wrong, for every kind of trouble that detectors know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.events import JoinedDelta
from streams.metrics.delay import delay_bin
from streams.packed import pack_dense, unpack_counters
from streams.panes import COARSE, PanePlan
from tests.support.simulate import Day, World, day_of, record_of

Counts = NDArray[np.int64]
CALM: Final = World(rows=260)
HOUR_S: Final = 3600


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and what has to be observed of it.

    Parameters
    ----------
    kind, subject, window : str
        Of an observation that has to come; ``""``: any.
    world : World, optional
        In which the days of trouble are drawn.
    rows : callable, optional
        Changes the rows of a day.
    counts : callable, optional
        Changes the overall counters of a day.
    cells : callable, optional
        Changes the counters of one segment of a day, ``origin=EWR``.
    hours : float
        Label delay.
    silent : bool
        No predictions at all.
    since : int
        First day of trouble.
    days : int
        Days of trouble within which it has to be observed.
    """

    kind: str
    subject: str = ""
    window: str = ""
    world: World = CALM
    rows: Callable[[Day], Day] | None = None
    counts: Callable[[PanePlan, Counts], None] | None = None
    cells: Callable[[PanePlan, Counts], None] | None = None
    hours: float = 1.0
    silent: bool = False
    since: int = 14
    days: int = 6


def record_with(plan: PanePlan, trouble: Trouble, day: int, rng: np.random.Generator) -> JoinedDelta | None:
    """One day's contributions; None where there are none."""
    bad = day >= trouble.since
    rows = day_of(trouble.world if bad else CALM, rng, plan.task)
    if bad and trouble.silent:
        return None
    if bad and trouble.rows is not None:
        rows = trouble.rows(rows)
    record = record_of(plan, rows, day)
    panes = []
    for pane in record.panes:
        counts = np.zeros(plan.size if not pane.segment else plan.segment_size, np.int64)
        at, amounts = unpack_counters(pane.counters)
        counts[at] = amounts
        labelled = int(counts[plan.slots["labelled"].start])
        seconds = int((trouble.hours if bad else 1.0) * HOUR_S)
        counts[plan.slots["delay"].start + delay_bin(seconds)] = labelled
        counts[plan.slots["delay_total"]] = labelled * seconds
        if bad and trouble.counts is not None and not pane.segment:
            trouble.counts(plan, counts)
        if bad and trouble.cells is not None and pane.segment == "origin=EWR":
            trouble.cells(plan, counts)
        panes.append(msgspec.structs.replace(pane, counters=pack_dense(counts)))
    return msgspec.structs.replace(record, panes=panes)


def _unlabelled(plan: PanePlan, counts: Counts) -> None:
    counts[plan.slots["labelled"]] //= 5


def _late(plan: PanePlan, counts: Counts) -> None:
    where, labelled = plan.slots["delay"], int(counts[plan.slots["labelled"].start])
    counts[where] = 0
    counts[where.start + delay_bin(9 * HOUR_S)] = labelled
    counts[plan.slots["delay_total"]] = labelled * 9 * HOUR_S


def _new_category(plan: PanePlan, counts: Counts) -> None:
    bins = plan.features["origin"].bins
    moved = counts[bins] // 5
    counts[bins] -= moved
    counts[bins.stop - 1] += moved.sum()


def _out_of_range(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    counts[slots.high] = counts[slots.bins][-1]


def _scaled(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    n = counts[slots.bins].sum()
    counts[slots.bins] = 0
    counts[slots.bins.stop - 1] = counts[slots.high] = n
    counts[slots.total] = n * 60 * COARSE


def _stuck(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    n = counts[slots.bins].sum()
    counts[slots.bins] = 0
    counts[slots.bins.start + 3] = n
    counts[slots.total] = -n * COARSE
    counts[[slots.first_total, slots.last_total]] = 0


def _typed_wrong(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    counts[slots.invalid] = counts[slots.bins].sum()
    counts[slots.bins] = 0


def _absent(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    counts[slots.missing] += counts[slots.bins].sum()
    counts[slots.bins] = 0


def _vanished(plan: PanePlan, counts: Counts) -> None:
    bins = plan.features["origin"].bins
    counts[bins.start] += counts[bins.start + 2]
    counts[bins.start + 2] = 0


def _turned(plan: PanePlan, counts: Counts) -> None:
    """A boolean (or any category) whose shares are the other way round."""
    bins = plan.features["origin"].bins
    counts[bins.start], counts[bins.start + 2] = counts[bins.start + 2], counts[bins.start]


def _flipped(rows: Day) -> Day:
    return rows | {"label": 1 - rows["label"]}


def _only_in(origin: str, change: Callable[[Day], Day]) -> Callable[[Day], Day]:
    def apply(rows: Day) -> Day:
        there, changed = rows["origin"] == origin, change(rows)
        return {name: np.where(there, changed[name], column) for name, column in rows.items()}

    return apply


def _without(origin: str) -> Callable[[Day], Day]:
    """Nothing comes from there any more."""
    return lambda rows: {name: column[rows["origin"] != origin] for name, column in rows.items()}


def _few(plan: PanePlan, counts: Counts) -> None:
    counts[plan.slots["predicted"]] = 12


def _confident(rows: Day) -> Day:
    score = np.where(rows["score"] > 0.5, 0.97, 0.03)
    return rows | {"score": score, "guess": (score >= 0.5).astype(int)}


def _positive(rows: Day) -> Day:
    return rows | {"score": np.maximum(rows["score"], 0.7), "guess": np.ones(len(rows["guess"]), int)}


def _half_lost(plan: PanePlan, counts: Counts) -> None:
    slots = plan.features["distance"]
    gone = counts[slots.bins] // 2
    counts[slots.bins] -= gone
    counts[slots.missing] += gone.sum()


def _elsewhere(rows: Day) -> Day:
    return rows | {"origin": np.full(len(rows["origin"]), "SFO", object)}


def _unsure(rows: Day) -> Day:
    """Scores near a half, as right as they say: what is lost shows before any label."""
    score = 0.5 + (rows["score"] - 0.5) * 0.15
    chance = np.random.default_rng(len(score)).random(len(score))
    return rows | {"score": score, "guess": (score >= 0.5).astype(int), "label": (chance < score).astype(int)}


def _shifted_in_segment(rows: Day) -> Day:
    return rows | {"distance": rows["distance"] + 1.2 * (rows["origin"] == "EWR")}


TROUBLES: Final[Mapping[str, Trouble]] = {
    "feature-drift": Trouble("data-drift", "feature:distance", "1d", World(rows=260, shift=0.8)),
    "category-drift": Trouble("data-drift", "feature:origin", "1d", counts=_turned),
    "vanished-category": Trouble("data-drift", "feature:origin", "1d", counts=_vanished),
    "absent": Trouble("data-quality", "feature:distance", "1d", counts=_absent),
    "new-segment": Trouble("new-segment", "origin=SFO", "1d", rows=_elsewhere),
    "estimated-quality": Trouble("estimated-quality", "", "1d", rows=_unsure),
    "segment-feature-drift": Trouble("data-drift", "feature:distance", "1d", rows=_shifted_in_segment),
    "segment-feature-missing": Trouble("data-quality", "feature:distance", "1d", cells=_half_lost),
    "segment-feature-out-of-range": Trouble("data-drift", "feature:distance", "1d", cells=_out_of_range),
    "segment-feature-stuck": Trouble("data-quality", "feature:distance", "1d", cells=_stuck),
    "segment-feature-skew": Trouble("skew", "feature:distance", "1d", cells=_typed_wrong, since=0),
    "new-category": Trouble("data-drift", "feature:origin", "1d", counts=_new_category),
    "out-of-range": Trouble("data-drift", "feature:distance", "1d", counts=_out_of_range),
    "missing": Trouble("data-quality", "feature:distance", "1d", World(rows=260, lost=0.3)),
    "wrong-type": Trouble("data-quality", "feature:distance", "1d", counts=_typed_wrong),
    "stuck": Trouble("data-quality", "feature:distance", "1d", counts=_stuck),
    "scaled": Trouble("data-quality", "feature:distance", "1d", counts=_scaled),
    "skew": Trouble("skew", "feature:distance", "1d", counts=_typed_wrong, since=0),
    "prediction-drift": Trouble("prediction-drift", "prediction", "1d", rows=_positive),
    "label-drift": Trouble(
        "label-drift", "label", "1d", rows=lambda rows: rows | {"label": np.ones_like(rows["label"])}
    ),
    "quality": Trouble("quality", "roc_auc", "1d", World(rows=260, wrong=0.25)),
    "cusum": Trouble("quality", "", "cusum", World(rows=260, wrong=0.2), days=10),
    "adwin": Trouble("quality", "", "adwin", World(rows=260, wrong=0.4), since=30, days=20),
    "page-hinkley": Trouble("quality", "", "page-hinkley", World(rows=260, wrong=0.3), since=24, days=8),
    "ddm": Trouble("quality", "", "ddm", World(rows=260, wrong=0.4), since=30, days=26),
    "hddm": Trouble("quality", "", "hddm", World(rows=260, wrong=0.4), since=30, days=26),
    "calibration": Trouble("calibration", "calibration_error", "1d", rows=_confident),
    "segment-quality": Trouble("quality", "", "1d", rows=_only_in("EWR", _flipped)),
    "segment-drift": Trouble("prediction-drift", "prediction", "1d", rows=_only_in("EWR", _positive)),
    "coverage": Trouble("coverage", "coverage", "pane", counts=_unlabelled),
    "segment-coverage": Trouble("coverage", "coverage", "pane", World(rows=600), cells=_unlabelled),
    "label-delay": Trouble("label-delay", "label_delay_p50_s", "pane", hours=9.0),
    "segment-label-delay": Trouble("label-delay", "label_delay_p50_s", "pane", World(rows=260), cells=_late),
    "collapse": Trouble("data-quality", "volume", "pane", World(rows=30), since=24),
    "segment-collapse": Trouble("data-quality", "volume", "pane", World(rows=260), cells=_few, since=24),
    "segment-silence": Trouble("data-quality", "volume", "pane", rows=_without("LGA"), since=24),
    "silence": Trouble("data-quality", "volume", "pane", silent=True),
}
"""By name; each begins in a calm world."""
