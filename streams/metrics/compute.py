"""Metrics by their names, from the counters of any sum of panes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from streams.metrics.catalogue import resolve
from streams.metrics.delay import label_delays
from streams.metrics.view import Dense, View, dense
from streams.panes import PanePlan


def compute(
    plan: PanePlan, counters: Mapping[int, int] | Dense, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Metrics of a window.

    Parameters
    ----------
    plan : PanePlan
    counters : mapping of int to int, or array
        Sum of the window's panes.
    names : iterable of str, optional
        Default: the metrics that the specification watches, calibration of classes, and the label delays.

    Returns
    -------
    dict of str to float
        Those that the window defines; never NaN or infinite.

    Raises
    ------
    KeyError
        Where the task knows no such metric.
    """
    view = View(plan, counters if isinstance(counters, np.ndarray) else dense(plan, counters))
    out: dict[str, float] = {}
    for name in names if names is not None else dict.fromkeys((*plan.spec.watched, *plan.spec.tested)):
        of, argument = resolve(plan.task, name)
        value = of(view, argument)
        if value is not None and math.isfinite(value):
            out[name] = value
    if names is None:
        delays = label_delays(view.many("delay"), view.one("delay_total"), plan.max_label_delay_ms // 1000)
        out.update(delays)
    return out
