"""Which alarms were right, seen from the end: the false-alarm estimate, beside rules that always or never fire.

All labels are known by then, so that it can be said when quality was lost: in a window (one after the other, as long
as the longest of the specification) in which a judged metric of what answered, overall or in a segment, was worse than
the reference of the first version by more than chance explains (a one-sided 95 % bound over all metrics and segments
of the window, from sampling and from how much the reference's own days differ) and by more than a point (2 % for
metrics without a scale of 0–1). An incident of quality, calibration or drift is *false* where no such window overlaps
with its time, from a window and the longest label delay before it opened until it closed. Incidents about the data
themselves (missing values, coverage, delays, new segments) are not judged: they are right where the data were wrong,
and quality does not say so.

The windows of loss are no absolute truth: a season that is harder to predict counts as a loss, as it does for users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import special

from agents.alerting.crossing import DRIFT_KINDS, QUALITY_KINDS
from schemas.codec import iso, segment_key, to_ms, utc
from schemas.events import Alert
from schemas.metrics import loss, split
from schemas.reference import MetricReference, ReferenceStatistics
from schemas.specification import Specification
from schemas.windows import TimeWindow
from streams.calibration import BOUNDED, LEAST_LOSS, LEAST_RELATIVE_LOSS

DAY_MS: Final = 86_400_000
CHANCE: Final = 0.05
"""Of a window that is called lost though nothing was."""
MONTH_DAYS: Final = 30.0


@dataclass(frozen=True)
class Loss:
    """Windows in a row in which quality was lost."""

    start_ms: int
    end_ms: int
    metrics: tuple[str, ...]
    segments: tuple[str, ...]


def lost_windows(
    spec: Specification, reference: ReferenceStatistics, series: Sequence[dict[str, Any]], *, who: str
) -> list[tuple[int, int, str, str]]:
    """(start, end, metric, segment) of every window in which a metric was lost."""
    found = []
    tests = len(spec.judged) * (1 + len(reference.segment_metrics))
    bound = -float(special.ndtri(CHANCE / max(tests, 1)))
    for row in series:
        segment = segment_key(row["segment"])
        panes = max((_ms(row["window_end"]) - _ms(row["window_start"])) // spec.pane_ms, 1)
        levels = reference.segment_metrics.get(segment, {}) if segment else reference.metrics
        for name in spec.judged:
            value, level = row[who].get(name), levels.get(name)
            if (
                value is not None
                and level is not None
                and _lost(name, value, level, n=row["n"], panes=panes, bound=bound)
            ):
                found.append((_ms(row["window_start"]), _ms(row["window_end"]), name, segment))
    return found


def _lost(name: str, value: float, level: MetricReference, *, n: int, panes: int, bound: float) -> bool:
    by = loss(name, value) - loss(name, level.value)
    sampling = level.scale**2 * (1.0 / max(n, 1) + (1.0 / level.n if level.n else 0.0))
    days = level.spread**2 * (1.0 / panes + (1.0 / level.panes if level.panes else 0.0))
    chance = np.sqrt(sampling + days)
    least = LEAST_LOSS if split(name)[0] in BOUNDED else LEAST_RELATIVE_LOSS * abs(level.value)
    return bool(by > max(bound * chance, least))


def losses(windows: Sequence[tuple[int, int, str, str]]) -> list[Loss]:
    """Stretches of lost windows that touch."""
    out: list[Loss] = []
    for start, end, metric, segment in sorted(windows):
        if out and start <= out[-1].end_ms:
            last = out[-1]
            metrics = tuple(dict.fromkeys((*last.metrics, metric)))
            segments = tuple(dict.fromkeys((*last.segments, segment)))
            out[-1] = Loss(last.start_ms, max(last.end_ms, end), metrics, segments)
        else:
            out.append(Loss(start, end, (metric,), (segment,)))
    return out


def verdict(alert: Alert, found: Sequence[Loss], *, reach_ms: int, end_ms: int) -> str:
    """``true``, ``false`` or ``not judged``."""
    if alert.kind not in QUALITY_KINDS | DRIFT_KINDS:
        return "not judged"
    opened = to_ms(alert.opened_at) - reach_ms
    closed = to_ms(alert.closed_at) if alert.closed_at is not None else end_ms
    return "true" if any(one.start_ms < closed and opened < one.end_ms for one in found) else "false"


@dataclass(frozen=True)
class Hindsight:
    """What is known at the end.

    Parameters
    ----------
    spec : Specification
    reference : ReferenceStatistics
        Of the first version.
    window : TimeWindow
        Of the series.
    series : sequence of dict
    panes : sequence of int
        When a rule that always fires would have fired: whenever a pane closed.
    start_ms, end_ms : int
        What was replayed.
    """

    spec: Specification
    reference: ReferenceStatistics
    window: TimeWindow
    series: Sequence[dict[str, Any]]
    panes: Sequence[int]
    start_ms: int
    end_ms: int

    @property
    def reach_ms(self) -> int:
        """How long before an alarm its cause may lie."""
        return self.window.length_ms + self.spec.max_label_delay_ms

    def estimate(self, incidents: Sequence[Alert], *, who: str) -> tuple[dict[str, Any], list[str]]:
        """The false-alarm estimate, and the verdict on each incident.

        Parameters
        ----------
        who : str
            Whose metrics of the series.
        """
        found = losses(lost_windows(self.spec, self.reference, self.series, who=who))
        verdicts = [verdict(alert, found, reach_ms=self.reach_ms, end_ms=self.end_ms) for alert in incidents]
        judged = [alert for alert, said in zip(incidents, verdicts, strict=True) if said != "not judged"]
        mine = [(to_ms(a.opened_at), to_ms(a.closed_at) if a.closed_at else self.end_ms) for a in judged]
        every = [(at, at) for at in self.panes]
        false_every = sum(
            not any(one.start_ms < at and at - self.reach_ms < one.end_ms for one in found) for at in self.panes
        )
        document = {
            "days": round(self._days, 2),
            "budget": self.spec.alarms.budget,
            "tolerated": round(self.spec.budget_per_ms * (self.end_ms - self.start_ms), 3),
            "losses": [
                {
                    "from": iso(utc(one.start_ms)),
                    "until": iso(utc(one.end_ms)),
                    "metrics": list(one.metrics),
                    "segments": [segment or "overall" for segment in one.segments],
                }
                for one in found
            ],
            "not_judged": len(incidents) - len(judged),
            "rules": [
                {"rule": "driftline", **self._rule(mine, verdicts.count("false"), found)},
                {"rule": "always-fire", **self._rule(every, false_every, found)},
                {"rule": "never-fire", **self._rule([], 0, found)},
            ],
        }
        return document, verdicts

    @property
    def _days(self) -> float:
        return max((self.end_ms - self.start_ms) / DAY_MS, 1e-9)

    def _rule(self, fired: Sequence[tuple[int, int]], false: int, found: Sequence[Loss]) -> dict[str, Any]:
        """A rule's alarms: how many were false (with an exact Poisson interval, 95 %), which losses it found, when."""
        delays = []
        for one in found:
            hits = [
                max(opened - one.start_ms, 0)
                for opened, closed in fired
                if opened < one.end_ms + self.reach_ms and closed > one.start_ms
            ]
            if hits:
                delays.append(min(hits) / DAY_MS)
        low = float(special.gammaincinv(false, 0.025)) if false else 0.0
        high = float(special.gammaincinv(false + 1, 0.975))
        a_month = MONTH_DAYS / self._days
        return {
            "alarms": len(fired),
            "false": false,
            "false_per_30d": round(false * a_month, 3),
            "interval_per_30d": [round(low * a_month, 3), round(high * a_month, 3)],
            "losses_found": len(delays),
            "losses": len(found),
            "median_delay_days": round(float(np.median(delays)), 2) if delays else None,
        }


def _ms(text: str) -> int:
    from datetime import datetime

    return to_ms(datetime.fromisoformat(text))
