"""What the calendar alone does to distributions: a reference for every month of the year.

Temperatures move every summer and nothing is wrong. Where the history of a version spans a year, its reference holds
the counts of every month; a window is compared with the mixture of the months it lies in, interpolated between their
middles so that the first of March is as much February as March. A year may be early or late: a window may also be like
the season half a month before or after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.reference import Seasons
from streams.drift.distances import psi_noise, shares
from streams.drift.scatter import MOST_PANES, Coded, drift_key
from streams.panes import PanePlan

Floats = NDArray[np.float64]

MONTHS: Final = 12
NAMES: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAY_MS: Final = 86_400_000
YEAR_MS: Final = 365 * DAY_MS
LEAST_SPAN_MS: Final = 360 * DAY_MS
"""Shortest history that holds every season: a year but for a few days."""
LEAST_ROWS: Final = 100
"""Rows that a month needs for its distribution to be one."""
YEARS_UNSURE: Final = 1.5
"""Standard errors, in years, by which the scatter around the season is raised: one year tells little of others."""
LEAST_EXCESS: Final = 0.02
"""Scatter between years that is assumed of a single one; less with each more."""
MOST_SAMPLES: Final = 64


@lru_cache(maxsize=4096)
def month_weights(start_ms: int, end_ms: int, shift_days: float = 0.0) -> tuple[float, ...]:
    """Weight of every month for a span of time; sums to 1.

    Examples
    --------
    >>> middle_of_july = 1_373_889_600_000
    >>> [round(w, 2) for w in month_weights(middle_of_july, middle_of_july + 86_400_000)][5:8]
    [0.0, 0.98, 0.02]
    """
    samples = max(1, min(MOST_SAMPLES, round((end_ms - start_ms) / DAY_MS)))
    at = start_ms + (np.arange(samples) + 0.5) * (end_ms - start_ms) / samples + shift_days * DAY_MS
    times = at.astype(np.int64).astype("datetime64[ms]")
    month = times.astype("datetime64[M]")
    begin = month.astype("datetime64[ms]").astype(np.int64)
    length = (month + 1).astype("datetime64[ms]").astype(np.int64) - begin
    place = (times.astype(np.int64) - begin) / length
    number = month.astype(np.int64) % MONTHS
    other = np.where(place < 0.5, number - 1, number + 1) % MONTHS
    away = np.abs(place - 0.5)
    weights = np.bincount(number, 1.0 - away, MONTHS) + np.bincount(other, away, MONTHS)
    weights[weights < 1e-3 * samples] = 0.0  # a moment of the next month needs no reference of its own
    return tuple((weights / weights.sum()).tolist())


def season_name(start_ms: int, end_ms: int) -> str:
    """The months a window lies in, in words.

    Examples
    --------
    >>> season_name(1_372_636_800_000, 1_373_241_600_000), season_name(1_372_204_800_000, 1_372_809_600_000)
    ('July', 'June to July')
    """
    months = np.array([start_ms, end_ms - 1], dtype="datetime64[ms]").astype("datetime64[M]").astype(np.int64) % MONTHS
    first, last = (NAMES[int(month)] for month in months)
    return "the whole year" if end_ms - start_ms >= YEAR_MS else first if first == last else f"{first} to {last}"


# ------------------------------------------------------------------------------------------------- compiling


def learn(
    plan: PanePlan,
    coded: Iterable[Coded],
    times: NDArray[np.int64],
    *,
    checks: Iterable[tuple[Coded, NDArray[np.int64]]] = (),
) -> Seasons | None:
    """Distributions by month, and how far the history's own windows lie from their season.

    Parameters
    ----------
    plan : PanePlan
    coded : iterable of Coded
        The history, in the bins of the reference.
    times : array of int, shape (n,)
        Event times of the history, in milliseconds.
    checks : iterable of (Coded, times)
        Rows that are known to be ordinary though they come from elsewhere (held-out predictions, where the history has
        those of fitted rows): what they lie off is added to the scatter.

    Returns
    -------
    Seasons or None
        None where the history is shorter than a year, or no subject fills every month.
    """
    if len(times) == 0 or int(times.max()) - int(times.min()) < LEAST_SPAN_MS:
        return None
    years = (int(times.max()) - int(times.min())) / YEAR_MS
    month = times.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % MONTHS
    months: dict[str, list[list[int]]] = {}
    drift: dict[str, float] = {}
    checked = {found.subject: (found, at) for found, at in checks}
    for found in coded:
        rows = found.rows if found.missing is None else found.rows & ~found.missing
        cells = month[rows] * found.size + found.codes[rows]
        counts = np.bincount(cells, minlength=MONTHS * found.size).reshape(MONTHS, found.size)
        if (counts.sum(axis=1) < LEAST_ROWS).any():
            continue
        months[found.subject] = counts.tolist()
        off = _off(counts, *checked[found.subject]) if found.subject in checked else 0.0
        drift.update(_own_windows(plan, found, rows, times, counts, years=years, off=off))
    if not months:
        return None
    return Seasons(months=months, drift=drift, start_ms=int(times.min()), end_ms=int(times.max()))


def _own_windows(
    plan: PanePlan,
    coded: Coded,
    rows: NDArray[np.bool_],
    times: NDArray[np.int64],
    months: NDArray[np.int64],
    *,
    years: float,
    off: float,
) -> dict[str, float]:
    pane = times // plan.pane_ms
    start = max(int(pane.min()), int(pane.max()) - MOST_PANES + 1)
    count = int(pane.max()) - start + 1
    inside = rows & (pane >= start)
    cells = (pane[inside] - start) * coded.size + coded.codes[inside]
    counts = np.bincount(cells, minlength=count * coded.size).reshape(count, coded.size)
    sums = np.concatenate([np.zeros((1, coded.size), dtype=np.int64), np.cumsum(counts, axis=0)])
    by_month, n_month = shares(months), months.sum(axis=1)
    bins = max(int((months.sum(axis=0) > 0).sum()), 2)
    out: dict[str, float] = {}
    lengths = {name: window.length_ms // plan.pane_ms for name, window in plan.spec.time_windows.items()}
    for name, length in (lengths or {"pane": 1}).items():
        span = max(min(length, count), 1)
        rolled = sums[span:] - sums[:-span]
        used = np.flatnonzero(rolled.sum(axis=1) >= LEAST_ROWS)
        used = used[:: max(1, len(used) // MOST_PANES)]
        if len(used) < 2:
            continue
        starts = (start + used) * plan.pane_ms
        weights = np.array([month_weights(int(at), int(at) + span * plan.pane_ms) for at in starts])
        n = rolled[used].sum(axis=1).astype(np.float64)
        behind = 1.0 / (weights**2 / np.maximum(n_month, 1)).sum(axis=1)
        own = np.minimum(n / behind, 0.75)
        psi = season_psi(shares(rolled[used]), weights @ by_month) / (1.0 - own) ** 2
        noise = np.array([psi_noise(bins, each, m) for each, m in zip(n, behind, strict=True)])
        seen = max(float((psi - noise).mean()), 0.0)
        variance = float(psi.var(ddof=1)) - float((2 * noise**2 / max(bins - 1, 1)).mean())
        dof = 2 * seen * seen / variance if variance > 0 and seen > 0 else bins - 1.0
        raised = seen * (1 + YEARS_UNSURE / math.sqrt(years)) + LEAST_EXCESS / years + off
        out[drift_key(coded.subject, name, "excess")] = raised
        out[drift_key(coded.subject, name, "dof")] = float(min(max(dof, 1.0), bins - 1.0))
    return out


def _off(months: NDArray[np.int64], coded: Coded, times: NDArray[np.int64]) -> float:
    """What rows from elsewhere lie off their season beyond chance."""
    rows = coded.rows if coded.missing is None else coded.rows & ~coded.missing
    if not rows.any():
        return 0.0
    counts = np.bincount(coded.codes[rows], minlength=coded.size)[None, :]
    month = times[rows].astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % MONTHS
    weights = np.bincount(month, minlength=MONTHS) / rows.sum()
    q = weights @ shares(months)
    noise = psi_noise(coded.size, float(counts.sum()), float(months.sum()))
    return max(float(season_psi(shares(counts), q[None, :])[0]) - noise, 0.0)


def season_psi(p: Floats, q: Floats, padding: Floats | float = 0.0) -> Floats:
    """Population stability index by row; where `padding` is one, nothing is."""
    return np.asarray(((p - q) * (np.log(p + padding) - np.log(q + padding))).sum(axis=-1))
