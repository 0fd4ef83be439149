"""The same panes in another order: a history in which nothing changes, to count alarms that nothing caused.

Whole panes change places at random, with what was answered and the delays of their labels. Whatever drifted or lasted
is spread over all of the time, so that an alarm of quality or drift is false, up to single bad days, which stay what
they are: the estimate errs on the high side. Seasons and weekdays are spread as well; what follows one day after the
other (autocorrelation) is lost, and the estimate says nothing about it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from scipy import special

from agents.alerting.crossing import DRIFT_KINDS, QUALITY_KINDS
from agents.backtest.answers import Answers
from agents.backtest.history import NEVER, History
from agents.backtest.recorded import Recorded
from agents.backtest.reference import recorded_reference
from agents.backtest.replay import Replay
from schemas.errors import TrainingError
from streams.native.choice import JoinCore
from streams.panes import PanePlan

REFERENCE_SHARE: Final = 0.25
"""Share of the panes that the others are compared with."""
LEAST_PANES: Final = 8
DAY_MS: Final = 86_400_000


def shuffle(history: History, answers: Answers, first: int, seed: int) -> tuple[History, int]:
    """The answered rows from `first` on with their panes in another order, and the end of the reference.

    Raises
    ------
    TrainingError
        There are too few panes.
    """
    spec = history.spec
    rows = answers.answered(first, len(history))
    starts = history.times_ms[rows] // spec.pane_ms * spec.pane_ms
    panes, of_row = np.unique(starts, return_inverse=True)
    if len(panes) < LEAST_PANES:
        raise TrainingError(
            f"{len(panes)} panes were replayed, shuffling needs {LEAST_PANES}",
            where="--shuffles",
            remedy="replay a longer stretch, or do without",
        )
    placed = panes[np.random.default_rng(seed).permutation(len(panes))]
    moved = placed[of_row] - starts
    times = history.times_ms[rows] + moved
    order = np.argsort(times, kind="stable")
    rows, times, moved = rows[order], times[order], moved[order]
    known = history.label_ms[rows] != NEVER
    label_ms = np.where(known, history.label_ms[rows] + np.where(known, moved, 0), NEVER)
    until = int(panes[max(int(len(panes) * REFERENCE_SHARE), LEAST_PANES // 2)])
    return (
        replace(
            history,
            table=_table(history, rows, times, label_ms),
            ids=[history.ids[row] for row in rows.tolist()],
            times_ms=times,
            labels=[history.labels[row] for row in rows.tolist()],
            label_ms=label_ms,
            features=[history.features[row] for row in rows.tolist()],
            segments=[history.segments[row] for row in rows.tolist()],
            segment_keys={name: keys[rows] for name, keys in history.segment_keys.items()},
            recorded=Recorded(
                list(answers.predictions[rows]),
                answers.probabilities(rows),
                np.ones(len(rows), dtype=np.int64),
                {1: "1"},
            ),
        ),
        until,
    )


def _table(history: History, rows: Any, times: Any, label_ms: Any) -> Any:
    import pandas as pd

    data = history.spec.data
    table = history.table.iloc[rows].reset_index(drop=True)
    table[data.event_time] = pd.to_datetime(times, unit="ms", utc=True).astype("datetime64[ms, UTC]")
    if data.label_time is not None:
        told = pd.Series(pd.to_datetime(np.where(label_ms == NEVER, 0, label_ms), unit="ms", utc=True))
        table[data.label_time] = told.astype("datetime64[ms, UTC]").mask(label_ms == NEVER)
    return table


def estimate(
    history: History, answers: Answers, first: int, *, shuffles: int, seed: int = 0, core: JoinCore = "auto"
) -> dict[str, Any]:
    """Incidents of quality and drift over shuffled histories: their rate is that of false ones, or higher."""
    found: list[int] = []
    days = 0.0
    for number in range(shuffles):
        mixed, until = shuffle(history, answers, first, seed + number)
        start = int(np.searchsorted(mixed.times_ms, until, side="left"))
        plan = PanePlan(mixed.spec, recorded_reference(mixed, start, until))
        world = Replay(mixed, start, core=core).recorded(plan)
        judged = [i for i in world.monitor.incidents() if i.kind in QUALITY_KINDS | DRIFT_KINDS]
        found.append(len(judged))
        days += (world.end_ms - until) / DAY_MS
    total = sum(found)
    a_month = 30.0 / max(days, 1e-9)
    low = float(special.gammaincinv(total, 0.025)) if total else 0.0
    return {
        "shuffles": shuffles,
        "incidents": found,
        "days": round(days, 2),
        "per_30d": round(total * a_month, 3),
        "interval_per_30d": [round(low * a_month, 3), round(float(special.gammaincinv(total + 1, 0.975)) * a_month, 3)],
        "tolerated_per_30d": round(history.spec.budget_per_ms * 30 * DAY_MS, 3),
    }
