"""How far the reference's own windows lie from the whole: drift that is no news."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.specification import DriftMeasure
from streams.columns import Floats, Indexes, Mask
from streams.drift.measures import noise_of, rows_of
from streams.drift.ordered import OrderedTable
from streams.panes import CLIP, PanePlan

if TYPE_CHECKING:
    from streams.drift.subjects import Subject

MINIMUM_WINDOW: Final = 30
MOST_PANES: Final = 1000
PRIOR_WINDOWS: Final = 3
"""Weight, in independent windows, of the excess that is assumed where the reference cannot tell."""
PRIOR_EXCESS: Final = 0.02
"""As PSI of about `BINS` bins; other distances take as much in proportion to their noise."""
BINS: Final = 10
PRIOR_DOF_WINDOWS: Final = 10
_ORDERED: Final = ("ks", "wasserstein")
UNSURE: Final = 1.5
"""Standard errors by which a mean of few windows is raised (a chi-squared scatters as much as its mean)."""


def drift_key(subject: str, window: str, statistic: str) -> str:
    """Key in `ReferenceStatistics.drift`.

    Parameters
    ----------
    subject : str
        ``feature:NAME``, ``prediction``, ``label``.
    window : str
        Name of a time window.
    statistic : {"excess", "dof", "missing", "top"}
        Mean PSI of the reference's own windows beyond chance; degrees of freedom of its scatter; standard deviation
        of the missing rate; largest share that one bin had in any window.
    """
    return f"{subject}@{window}:{statistic}"


class Coded(NamedTuple):
    """One subject: bin of every row, number of bins, rows that count, which of them are missing.

    `values`: numbers in the reference's standard deviations from its mean.
    """

    subject: str
    codes: Indexes
    size: int
    rows: Mask
    missing: Mask | None = None
    values: Floats | None = None


def own_windows(plan: PanePlan, coded: Coded, times: Indexes, watched: Subject | None = None) -> dict[str, float]:
    """Scatter of the reference's own windows, by the distance that decides.

    Parameters
    ----------
    watched : Subject, optional
        Says which distance that is; None: PSI.

    Notes
    -----
    A window is part of the whole it is compared with: its deviation from the rest is larger by 1 / (1 − share). Windows
    longer than half the reference take the panes' figure, halved for every doubling of length but the first (panes
    of real data are correlated).
    """
    subject, codes, size, rows, missing, _ = coded
    used = rows if missing is None else rows & ~missing
    out: dict[str, float] = {}
    pane = times // plan.pane_ms
    if not rows.any():
        return out
    start = max(int(pane[rows].min()), int(pane[rows].max()) - MOST_PANES + 1)
    count = int(pane[rows].max()) - start + 1
    inside = used & (pane >= start)
    counts = np.bincount((pane[inside] - start) * size + codes[inside], minlength=count * size).reshape(count, size)
    lost = (
        np.zeros(count)
        if missing is None
        else np.bincount(pane[rows & missing & (pane >= start)] - start, minlength=count)
    )
    whole = counts.sum(axis=0)
    total = float(whole.sum())
    if total == 0:
        return out
    single: tuple[float, float] | None = None
    top = 1.0
    ordered = _ordered_rows(coded, watched, inside, pane - start, count)
    lengths = {name: window.length_ms for name, window in plan.spec.time_windows.items()}
    for window, length_ms in (lengths or {"pane": plan.pane_ms}).items():
        length = length_ms // plan.pane_ms
        if length * 2 <= count or single is None:
            length = min(length, count)
            rolled = _rolled(counts, length)
            sizes = rolled.sum(axis=1)
            enough = sizes >= MINIMUM_WINDOW
            rows_found = None if ordered is None else ordered(length, enough)
            figures = _scatter(rolled[enough], whole, length, watched, rows_found)
            top = float((rolled[enough].max(axis=1) / sizes[enough]).max(initial=0.0)) if enough.any() else 1.0
        else:
            figures = (single[0] / max(length / 2, 1.0), single[1])
        if single is None:
            single = figures
        out[drift_key(subject, window, "excess")] = figures[0]
        out[drift_key(subject, window, "dof")] = figures[1]
        if missing is not None:
            span = min(length, count)
            own = _rate_spread(_rolled(lost, span), _rolled(counts, span).sum(axis=1))
            out[drift_key(subject, window, "missing")] = own
            out[drift_key(subject, window, "top")] = top
    return out


def _ordered_rows(
    coded: Coded, watched: Subject | None, inside: Mask, pane: Indexes, count: int
) -> Callable[[int, Mask], Floats] | None:
    """Squares of the distances of the windows of so many panes, of which some are asked for; None: bins tell them."""
    if watched is None or watched.ordered is None or coded.values is None or watched.measure not in _ORDERED:
        return None
    reference = watched.ordered
    table = OrderedTable([reference])
    size = table.shape[1]
    values, pane = np.clip(coded.values[inside], -CLIP, CLIP), pane[inside]
    codes = np.searchsorted(reference.edges, values, side="right")
    counts = np.bincount(pane * size + codes, minlength=count * size).reshape(count, size)
    sums = np.zeros((count, 5))
    for column, rows in enumerate((codes >= 0, codes == 0, codes == size - 1), start=2):
        sums[:, column] = np.bincount(pane[rows], weights=values[rows], minlength=count)

    def squares(length: int, used: Mask) -> Floats:
        windows, rest = _rolled(counts, length)[used], _rolled(sums, length)[used]
        return np.asarray(table.distances(windows.astype(np.float64), rest)[_ORDERED.index(watched.measure)] ** 2)

    return squares


def _rolled(counts: NDArray[Any], length: int) -> NDArray[Any]:
    """Sums of every `length` neighbouring rows."""
    sums = np.concatenate([np.zeros((1, *counts.shape[1:]), dtype=counts.dtype), np.cumsum(counts, axis=0)])
    return np.asarray(sums[length:] - sums[:-length])


def _scatter(
    windows: NDArray[np.int64],
    whole: NDArray[np.int64],
    length: int,
    watched: Subject | None,
    rows: Floats | None,
) -> tuple[float, float]:
    """Mean distance beyond chance, and the degrees of freedom of a scaled chi-squared with its scatter.

    Notes
    -----
    On the scale of `streams.drift.measures`; `rows` are the windows' distances where bins alone do not tell them. Few
    windows know neither: the mean is raised by what it may be off by, the degrees of freedom are drawn to 1, the
    longest tail (days that differ by one shift).
    """
    measure: DriftMeasure = "psi" if watched is None else watched.measure
    gaps = None if watched is None else watched.gaps
    scale, freedom = noise_of(measure, whole.astype(np.float64), gaps)
    prior = PRIOR_EXCESS if measure == "psi" else PRIOR_EXCESS * scale / (BINS - 1)
    if measure == "wasserstein" and watched is not None:
        scale = watched.noise[0]
    independent = len(windows) / length
    if len(windows) < 2:
        return prior, 1.0
    n = windows.sum(axis=1).astype(np.float64)
    total = float(whole.sum())
    if rows is None:
        rows = rows_of(measure, windows.astype(np.float64), whole.astype(np.float64), gaps)
    values = rows / np.maximum(1.0 - n / total, 0.25) ** 2
    noise = scale * (1.0 / np.maximum(n, 1.0) + 1.0 / max(total, 1.0))
    seen = max(float((values - noise).mean()), 0.0)
    weight = independent / (independent + PRIOR_WINDOWS)
    excess = weight * seen * (1 + UNSURE / math.sqrt(independent)) + (1 - weight) * max(prior, seen)
    own_variance = float(values.var(ddof=1)) - float((2 * noise**2 / freedom).mean())
    dof = 2 * seen * seen / own_variance if own_variance > 0 else float(freedom)
    dof = (PRIOR_DOF_WINDOWS + independent * min(dof, freedom)) / (PRIOR_DOF_WINDOWS + independent)
    return excess, float(min(max(dof, 1.0), freedom))


def _rate_spread(lost: NDArray[Any], present: NDArray[Any]) -> float:
    """Standard deviation of the missing rate between windows beyond chance."""
    n = (lost + present).astype(np.float64)
    used = n >= MINIMUM_WINDOW
    if used.sum() < 2:
        return 0.0
    rate = lost[used] / n[used]
    p = float(lost[used].sum() / n[used].sum())
    return math.sqrt(max(float(rate.var(ddof=1)) - p * (1 - p) * float((1 / n[used]).mean()), 0.0))
