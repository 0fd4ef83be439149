"""Ways to hold a fleet's budget, side by side on the same p-values: run-length calibration and false-discovery control.

The p-values are those of one test a model and day (accuracy over 7 and 28 days against a reference that is a sample
itself), neighbours in time overlapping as they do in production. Run it with
``python -m benchmarks.detection.fleet_rules``; ADR 22 quotes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]
Rule = Callable[[Floats], Hits]

QUIET_DAYS: Final = 7
"""A model that was discovered is not asked again for so long: one incident."""
WINDOWS: Final = (7, 28)
EVENTS: Final = 100
REFERENCE_DAYS: Final = 14
ACCURACY: Final = 0.8


def chances(models: int, losing: int, days: int, *, loss: float, since: int, rng: np.random.Generator) -> Floats:
    """p-values by model and day; the last `losing` models lose accuracy from day `since` on.

    Returns
    -------
    array, shape (models, days)
    """
    before = max(WINDOWS)
    own = math.sqrt(ACCURACY * (1 - ACCURACY) / EVENTS)
    reference = rng.normal(0.0, own / math.sqrt(REFERENCE_DAYS), (models, 1))
    level = rng.normal(0.0, own, (models, before + days)) - reference
    level[models - losing :, before + since :] -= loss
    sums = np.concatenate([np.zeros((models, 1)), np.cumsum(level, axis=1)], axis=1)
    out = np.ones((models, days))
    for window in WINDOWS:
        mean = (sums[:, before + 1 :] - sums[:, before + 1 - window : -window]) / window
        error = own * math.sqrt(1 / window + 1 / REFERENCE_DAYS)
        out = np.minimum(out, special.ndtr(mean / error))
    return np.minimum(out * len(WINDOWS), 1.0)


def run_length(budget_per_day: float) -> Rule:
    """A model crosses where its chance of a day is below its share of the budget."""
    return lambda p: p <= budget_per_day / p.shape[0]


def daily_benjamini_hochberg(level: float) -> Rule:
    """Benjamini and Hochberg (1995) over all models, every day anew."""

    def decide(p: Floats) -> Hits:
        out = np.zeros(p.shape, dtype=bool)
        quiet = np.full(p.shape[0], -QUIET_DAYS - 1)
        for day in range(p.shape[1]):
            asked = np.flatnonzero(day - quiet > QUIET_DAYS)
            order = asked[np.argsort(p[asked, day])]
            below = np.flatnonzero(p[order, day] <= level * np.arange(1, len(order) + 1) / len(order))
            found = order[: int(below[-1]) + 1] if len(below) else order[:0]
            out[found, day] = True
            quiet[found] = day
        return out

    return decide


def lord(level: float) -> Rule:
    """LORD++ (Ramdas, Yang, Wainwright and Jordan 2017): one stream of tests, days in order, models within a day."""

    def decide(p: Floats) -> Hits:
        models, days = p.shape
        index = np.arange(1, p.size + 1, dtype=np.float64)
        weight = np.log(np.maximum(index, 2)) / (index * np.exp(np.sqrt(np.log(index))))
        weight /= weight.sum()
        wealth = level / 2
        levels = weight * wealth
        out = np.zeros(p.shape, dtype=bool)
        quiet = np.full(models, -QUIET_DAYS - 1)
        found = 0
        for day in range(days):
            for model in np.flatnonzero((p[:, day] < level) & (day - quiet > QUIET_DAYS)):
                at = day * models + int(model)
                if p[model, day] <= levels[at]:
                    out[model, day] = True
                    quiet[model] = day
                    found += 1
                    earned = level - wealth if found == 1 else level
                    levels[at + 1 :] += earned * weight[: len(levels) - at - 1]
        return out

    return decide


def incidents(hits: Hits) -> int:
    """Discoveries, those of one model within `QUIET_DAYS` of each other being one."""
    count = 0
    for row in hits[hits.any(axis=1)]:
        last = -math.inf
        for day in np.flatnonzero(row):
            count += int(day - last > QUIET_DAYS)
            last = float(day)
    return count


def compare(models: int = 18_000, days: int = 90, *, seed: int = 1) -> list[dict[str, Any]]:
    """False incidents and power of each rule, by the number of models that lose accuracy.

    Returns
    -------
    list of dict
        ``false_incidents`` within the days, ``budget`` (one a day), ``power``: share of losing models found.
    """
    rules: Mapping[str, Rule] = {
        "run_length": run_length(1.0),
        "daily_benjamini_hochberg_0.05": daily_benjamini_hochberg(0.05),
        "daily_benjamini_hochberg_0.2": daily_benjamini_hochberg(0.2),
        "lord_0.05": lord(0.05),
        "lord_0.2": lord(0.2),
    }
    out = []
    for losing in (0, 2, models // 1000, models // 100, models // 10):
        since = days // 3
        p = chances(models, losing, days, loss=0.05, since=since, rng=np.random.default_rng([seed, losing]))
        for name, rule in rules.items():
            hits = rule(p)
            early = hits[models - losing :, :since]
            found = hits[models - losing :, since:].any(axis=1)
            out.append(
                {
                    "rule": name,
                    "models": models,
                    "losing": losing,
                    "false_incidents": incidents(hits[: models - losing]) + incidents(early),
                    "budget": days,
                    "power": round(float(found.mean()), 3) if losing else None,
                }
            )
    return out


if __name__ == "__main__":
    for each in compare():
        print(json.dumps(each))
