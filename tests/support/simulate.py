"""Simulated models over many days, as counters: fast enough to measure false alarms and power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.events import DeltaRecord, JoinedDelta, Observation, PaneDelta
from schemas.specification import Specification
from streams.aggregate import AggregatePartition
from streams.metrics.batch import label_counters
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.traffic import traffic_counters
from tests.support.plans import specification
from tests.support.replay import DAY, watermark

ORIGINS = np.array(["EWR", "JFK", "LGA"], dtype=object)


@dataclass(frozen=True)
class World:
    """A stationary world, or one with something wrong.

    Parameters
    ----------
    rows : int
        Predictions a day.
    wobble : float
        Standard deviation of a random shift of the logit between truth and score, new every day.
    weather : float
        Standard deviation of a random daily shift of the feature, in its standard deviations.
    wrong : float
        Share of labels that are flipped.
    shift : float
        Constant shift of the feature.
    lost : float
        Share of feature values that are missing.
    """

    rows: int = 800
    wobble: float = 0.0
    weather: float = 0.0
    wrong: float = 0.0
    shift: float = 0.0
    lost: float = 0.0


Day = dict[str, NDArray]


def day_of(world: World, rng: np.random.Generator, task: str = "binary") -> Day:
    """One day's rows."""
    n = max(int(rng.poisson(world.rows)), 1)
    distance = rng.normal(world.shift + world.weather * rng.normal(), 1.0, n)
    distance[rng.random(n) < world.lost] = np.nan
    origin = rng.choice(ORIGINS, n, p=[0.5, 0.3, 0.2])
    if task == "regression":
        truth = rng.normal(100.0, 20.0, n)
        error = rng.laplace(0.0, 6.0, n) * (1 + world.wrong * 2) + world.wobble * rng.normal()
        return {"distance": distance, "origin": origin, "label": truth, "guess": truth + error, "score": truth + error}
    logit = rng.normal(-0.5, 1.5, n)
    score = 1 / (1 + np.exp(-logit))
    true = (rng.random(n) < 1 / (1 + np.exp(-(logit + world.wobble * rng.normal())))).astype(int)
    flipped = rng.random(n) < world.wrong
    label = np.where(flipped, 1 - true, true)
    return {"distance": distance, "origin": origin, "label": label, "guess": (score >= 0.5).astype(int), "score": score}


def learn(spec: Specification, world: World, days: int, rng: np.random.Generator) -> PanePlan:
    """A plan whose reference saw `days` days of the world."""
    return learn_from(spec, [day_of(world, rng, spec.task) for _ in range(days)])


def learn_from(spec: Specification, rows: Sequence[Day]) -> PanePlan:
    """A plan whose reference saw these days."""
    table = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    times = np.concatenate([np.full(len(row["label"]), day * DAY + 1) for day, row in enumerate(rows)])
    reference = compile_reference(
        spec,
        {"distance": table["distance"], "origin": table["origin"]},
        labels=table["label"],
        predictions=table["guess"],
        scores=None if spec.task == "regression" else table["score"],
        event_time_ms=times,
        importances={"distance": 0.1, "origin": 0.05},
    )
    return PanePlan(spec, reference)


def record_of(plan: PanePlan, rows: Day, day: int) -> JoinedDelta:
    """The contributions of one day, all labelled the same day."""
    scores = None if plan.task == "regression" else rows["score"]
    panes = []
    for segment in ("", *(f"origin={name}" for name in sorted(set(rows["origin"].tolist())))):
        keep = np.ones(len(rows["label"]), bool) if not segment else rows["origin"] == segment.partition("=")[2]
        counts = label_counters(
            plan, rows["label"][keep], rows["guess"][keep], None if scores is None else scores[keep]
        )[0]
        counts[plan.slots["predicted"]] = keep.sum()
        bins = np.searchsorted(plan.score_edges, rows["score"][keep], side="right")
        where = plan.slots["scores"]
        counts[where] = np.bincount(bins, minlength=where.stop - where.start)
        _features(plan, rows if not segment else {name: column[keep] for name, column in rows.items()}, counts, segment)
        packed = pack_dense(counts[: plan.segment_size] if segment else counts)
        panes.append(PaneDelta(segment, day * DAY, day * DAY, packed))
    return JoinedDelta("m", 1, plan.layout, 0, panes)


def _features(plan: PanePlan, rows: Day, counts: NDArray[np.int64], segment: str) -> None:
    counted = traffic_counters(plan, {name: rows[name] for name in plan.features})[0]
    for name, slots in plan.features.items():
        if not segment or name in plan.of_segments:
            where = slice(slots.bins.start, plan.slots[f"feature:{name}:rest"].stop)
            counts[where] = counted[where]


def live(
    plan: PanePlan, world: World, days: int, rng: np.random.Generator, *, bad: World | None = None, since: int = 0
) -> list[Observation]:
    """Observations of a live period; from day `since` on the world is `bad`."""
    aggregate = AggregatePartition(1, lambda model, version: plan)
    out: list[Observation] = []
    for day in range(days):
        now = bad if bad is not None and day >= since else world
        records: list[DeltaRecord] = [record_of(plan, day_of(now, rng, plan.task), day), watermark((day + 1) * DAY)]
        for record in records:
            out += [event for event in aggregate.merge(record) if isinstance(event, Observation)]
    return out


def watching(task: str = "binary", **over: object) -> Specification:
    """A specification with everything on: several metrics, windows and segments."""
    watch = {"binary": ("brier", "accuracy"), "multiclass": (), "regression": ("rmse",)}[task]
    given: dict[str, object] = {"windows": ("1d", "7d", "1000n"), "watch": watch, "delay": "1d", "horizon": "1d"}
    return specification(task, **(given | over))  # type: ignore[arg-type]


def worse(world: World, **changes: float) -> World:
    """The same world with something wrong."""
    return replace(world, **changes)  # type: ignore[arg-type]
