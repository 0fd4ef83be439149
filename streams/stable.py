"""The first quiet panes of a version refine what its reference says of levels and their spread.

A reference often holds a week or two of days: it knows neither its own level well nor how days differ. What the
version shows while nothing crosses is evidence of the same things.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.reference import MetricReference
from streams.metrics.levels import MINIMUM_PANE, PRIOR_PANES, between_panes, stretch

STABLE_PANES: Final = 28
STABLE_MS: Final = 7 * 86_400_000
"""Shorter panes are learnt for as long, so that every hour of a week is among them."""
MOST_STABLE: Final = 168
MOST_SHIFT: Final = 2.0
"""Standard errors of the reference by which the level may move: a loss present from the first day stays one."""


class StablePanes(msgspec.Struct, array_like=True):
    """The first quiet panes: labelled events, then the judged metrics in order (None where a pane defines none).

    `refined` is the number of panes that the levels take into account.
    """

    panes: list[list[float | None]] = msgspec.field(default_factory=list)
    refined: int = 0


def stable_panes(pane_ms: int) -> int:
    """How many panes make the first stable period; 0: panes are too short to refine anything.

    Examples
    --------
    >>> stable_panes(86_400_000), stable_panes(3_600_000), stable_panes(60_000)
    (28, 168, 0)
    """
    wanted = max(STABLE_PANES, -(-STABLE_MS // pane_ms))
    return wanted if wanted <= MOST_STABLE else 0


def learn_pane(stable: StablePanes, n: int, values: Sequence[float | None], wanted: int) -> bool:
    """Take a quiet pane in; whether the levels are to be refined now: half way, and at the end.

    Parameters
    ----------
    n : int
        Labelled events of the pane.
    values : sequence of float or None
        Judged metrics.
    wanted : int
        From `stable_panes`.
    """
    if n < MINIMUM_PANE or len(stable.panes) >= wanted:
        return False
    stable.panes.append([float(n), *values])
    if len(stable.panes) not in {wanted // 2, wanted}:
        return False
    stable.refined = len(stable.panes)
    return True


def refined_levels(
    levels: Mapping[str, MetricReference], names: Sequence[str], stable: StablePanes
) -> dict[str, MetricReference]:
    """Levels of the reference with what the first quiet panes add.

    Parameters
    ----------
    levels : mapping of str to MetricReference
        Of the version.
    names : sequence of str
        Judged metrics, in the order of the panes.

    Notes
    -----
    Spread and correlation are pooled by their panes. The level moves towards that of the panes as far as the errors of
    both say, at most `MOST_SHIFT` standard errors of the reference.
    """
    out = dict(levels)
    rows = stable.panes[: stable.refined]
    for column, name in enumerate(names, start=1):
        level = levels.get(name)
        seen = [(row[column], row[0]) for row in rows if row[column] is not None]
        if level is None or len(seen) < 2:
            continue
        values = np.array([value for value, _ in seen], dtype=np.float64)
        sizes = np.array([size for _, size in seen], dtype=np.float64)
        out[name] = _refined(level, values, sizes)
    return out


def _refined(level: MetricReference, values: np.ndarray, sizes: np.ndarray) -> MetricReference:
    told = between_panes(values, sizes, level.scale, level.spread)
    weight = PRIOR_PANES + max(level.panes - 1, 0)
    # `told` was drawn towards the reference's spread with the prior's weight: that part is no evidence of its own.
    spread = math.sqrt((weight * level.spread**2 + (told.panes - 1) * told.spread**2) / (weight + told.panes - 1))
    memory = (weight * level.memory + (told.panes - 1) * told.memory) / (weight + told.panes - 1)
    reference = level.value if level.pane_value is None else level.pane_value
    known = _variance(spread, memory, level.scale, level.panes, level.n)
    live = _variance(spread, memory, level.scale, told.panes, int(sizes.sum()))
    shift = (told.mean - reference) * known / (known + live) if known + live > 0 else 0.0
    most = MOST_SHIFT * math.sqrt(known)
    shift = min(max(shift, -most), most)
    return MetricReference(
        value=level.value + shift,
        spread=spread,
        scale=level.scale,
        pane_value=reference + shift,
        panes=level.panes + told.panes,
        n=level.n + int(sizes.sum()),
        memory=memory,
        week=level.week,
    )


def _variance(spread: float, memory: float, scale: float, panes: int, n: int) -> float:
    """Of a level that was learnt from `panes` with `n` events."""
    between = spread**2 * stretch(memory, panes) / panes if panes else 0.0
    return between + (scale**2 / n if n else 0.0)
