"""A window's tests subject by subject, as plainly as can be: what the vectorised ones are held equal to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.events import Observation
from streams import calibration as cal
from streams.detection import Finding, Key, Watches
from streams.detectors import Equipment
from streams.drift.distances import (
    chi_squared_p,
    jensen_shannon,
    kolmogorov_smirnov,
    kolmogorov_smirnov_p,
    psi,
    wasserstein,
)
from streams.drift.measures import chi2_rows
from streams.drift.ordered import SOON
from streams.drift.subjects import Subject, positions, subjects
from streams.panes import COARSE, TAIL, FeatureSlots, PanePlan
from streams.windows import Window

Counts = NDArray[np.int64]


def observed(plan: PanePlan, subject: Subject, counts: Counts) -> Counts:
    """A window's counts of a subject, in the bins of its reference."""
    if subject.slots is not None:
        fine = counts[subject.slots.bins]
        if subject.groups is None:
            return fine
        return np.bincount(subject.groups, weights=fine, minlength=len(subject.reference)).astype(np.int64)
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


def statistics(plan: PanePlan, subject: Subject, counts: Counts, window: Counts) -> dict[str, float | None]:
    """Every statistic of a subject in a window."""
    n = int(counts.sum())
    out: dict[str, float | None] = {}
    if n == 0:
        out = {"psi": None, "jensen_shannon": None}
    else:
        out["psi"] = psi(counts, subject.reference)
        out["jensen_shannon"] = jensen_shannon(counts, subject.reference)
        if subject.centres is None:
            both = np.array([counts, subject.reference])
            out["chi2"] = float(chi2_rows(both[:1].astype(float), both[1].astype(float))[0])
            out["chi2_p"] = chi_squared_p(counts, subject.reference)
        else:
            distance = kolmogorov_smirnov(counts, subject.reference)
            far = wasserstein(counts, subject.reference, subject.centres, subject.scale)
            if subject.slots is not None:
                distance = max(distance, int(window[subject.slots.low]) / n, int(window[subject.slots.high]) / n)
            if subject.ordered is not None:
                distance, far = _ordered(subject, window, positions(plan, subject)[0])
            out["ks"] = distance
            out["ks_p"] = kolmogorov_smirnov_p(distance, n, subject.reference_n)
            out["wasserstein"] = far
    if subject.slots is not None:
        out.update(_of_feature(subject, subject.slots, n, window))
    return out


def _ordered(subject: Subject, window: Counts, at: Counts) -> tuple[float, float]:
    """KS and Wasserstein distance of numbers that are counted finely: bin by bin."""
    o = subject.ordered
    assert o is not None
    bins, edges = len(o.counts), o.edges
    mine = [int(window[at[o.groups == bin_]].sum()) for bin_ in range(bins)]
    n, m = sum(mine), int(o.counts.sum())
    gaps = [sum(mine[: k + 1]) / n - int(o.counts[: k + 1].sum()) / m for k in range(bins)]
    low = high = total = first = last = 0.0
    if o.slots is not None:
        low, high, total, first, last = (int(window[slot]) / n for slot in o.slots)
        total, first, last = total / COARSE, first / TAIL, last / TAIL
    ks = max(*map(abs, gaps), low, high)
    several = [o.tails[0] > 1e-9, *(bool(o.means[k] - edges[k - 1] > 1e-9) for k in range(1, bins))]
    if mine[0] == 0 and low == 0 and bins > 2:
        ks = max(ks, _until_first(mine, o.counts.tolist(), several))
    if mine[-1] == 0 and high == 0 and bins > 2:
        ks = max(ks, _until_first(mine[::-1], o.counts.tolist()[::-1], several[::-1]))
    far = 0.0
    for k in range(1, bins - 1):
        one, other = gaps[k - 1], gaps[k]
        lower, upper = float(o.means[k] - edges[k - 1]), float(edges[k] - o.means[k])
        if one * other < 0 and several[k]:
            far += (one**2 + other**2) / (2 * (abs(one) + abs(other))) * (lower + upper)
        else:
            far += abs(one) * lower + abs(other) * upper
    outer = float(edges[0] - o.means[0]), float(o.means[-1] - edges[-1])
    if o.slots is None:
        return ks, far + abs(gaps[0]) * outer[0] + abs(gaps[-2]) * outer[1]
    far += abs(float(edges[0]) * mine[0] / n - first - outer[0] * int(o.counts[0]) / m)
    far += abs(last - float(edges[-1]) * mine[-1] / n - outer[1] * int(o.counts[-1]) / m)
    return ks, max(far, abs(total))


def _until_first(mine: list[int], reference: list[int], several: list[bool]) -> float:
    """Share of the reference before the first value of the window, as a straight line tells it."""
    at = next(k for k, count in enumerate(mine) if count)
    if at + 1 >= len(mine) or not (several[at] and several[at + 1] and mine[at + 1]):
        return 0.0
    width = reference[at] / sum(reference)
    within = min(mine[at] / (mine[at + 1] / (reference[at + 1] / sum(reference))), width)
    return sum(reference[: at + 1]) / sum(reference) - (width - SOON * (width - within))


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


def plain_traffic(
    plan: PanePlan, watches: Watches, window: Window, total: Counts, now_ms: int
) -> Iterator[Observation]:
    """What a closed window says of features and prediction."""
    for subject in subjects(plan):
        if subject.kind == "label-drift":
            continue
        yield from _drift(plan, watches, subject, window, total, now_ms)
        if subject.slots is not None:
            yield from _unusable(plan, watches, subject, window, total, now_ms)


def _drift(
    plan: PanePlan, watches: Watches, subject: Subject, window: Window, total: Counts, now_ms: int
) -> Iterator[Observation]:
    counts = observed(plan, subject, total)
    n = int(counts.sum())
    if n < cal.MINIMUM_TRAFFIC:
        return
    found = statistics(plan, subject, counts, total)
    value = found["psi"]
    assert value is not None
    p = Equipment.of(plan).allowance.drift
    at = partial(_drift_at, plan, subject, window, n)
    bound = at(p)
    evidence: dict[str, object] = {"statistic": "psi", "p": p}
    evidence["reference_days"] = Equipment.of(plan).reference_days
    if bound.crossed(value):
        evidence["p_value"] = cal.least_p(at, value, p)
    evidence |= {name: round(number, 6) for name, number in found.items() if number is not None and name != "psi"}
    if subject.slots is not None:
        evidence["importance"] = round(_importance(plan, subject), 4)
    key = Key(subject.kind, subject.name, "", window.name)
    yield from _judge(watches, key, window, value, bound, n, cal.drift_severity(bound, value), evidence, now_ms)


def _unusable(
    plan: PanePlan, watches: Watches, subject: Subject, window: Window, total: Counts, now_ms: int
) -> Iterator[Observation]:
    slots = subject.slots
    assert slots is not None
    missing, invalid = int(total[slots.missing]), int(total[slots.invalid])
    n = int(total[slots.bins].sum()) + missing + invalid
    if n < cal.MINIMUM_TRAFFIC:
        return
    p = Equipment.of(plan).allowance.unusable
    at = partial(_unusable_at, plan, subject, window, n)
    bound = at(p)
    value = (missing + invalid) / n
    evidence: dict[str, object] = {"statistic": "unusable_rate", "p": p, "missing": missing, "invalid": invalid}
    if bound.crossed(value):
        evidence["p_value"] = cal.least_p(at, value, p)
    evidence["importance"] = round(_importance(plan, subject), 4)
    key = Key("data-quality", subject.name, "", window.name)
    yield from _judge(watches, key, window, value, bound, n, cal.unusable_severity(bound, value), evidence, now_ms)


def _drift_at(plan: PanePlan, subject: Subject, window: Window, n: int, p: float) -> cal.Bound:
    return cal.drift_bound(plan, subject, window.name, n=n, p=p)


def _unusable_at(plan: PanePlan, subject: Subject, window: Window, n: int, p: float) -> cal.Bound:
    return cal.unusable_bound(plan, subject, window.name, n=n, p=p)


def _importance(plan: PanePlan, subject: Subject) -> float:
    importances = plan.reference.importances
    return importances[subject.name.removeprefix("feature:")] / sum(importances.values())


def _judge(
    watches: Watches,
    key: Key,
    window: Window,
    value: float,
    bound: cal.Bound,
    n: int,
    severity: str,
    evidence: dict[str, object],
    now_ms: int,
) -> Iterator[Observation]:
    finding = Finding(
        window.start_ms, window.end_ms, value, bound.reference, bound.threshold, n,
        severity, bound.crossed(value), bound.recovered(value), evidence,  # type: ignore[arg-type]
    )  # fmt: skip
    observation = watches.look(key, finding, now_ms)
    if observation is not None:
        yield observation
