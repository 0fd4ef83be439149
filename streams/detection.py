"""From crossings to observations: opened once, updated when worse, closed after recovery (hysteresis)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from schemas.codec import derived_id, segment_of, utc
from schemas.events import Kind, Observation, Severity, Status

GOOD_PANES: Final = 2
"""Panes in a row that have to be good again before an observation closes."""
LESS_LIKELY: Final = 10**-0.5
"""An observation is said again when its p-value fell to this part of what was said: the fleet's budget needs it."""
LEAST_TOLD: Final = 1e-15
"""P-values below need not be told apart."""
_RANK: Final[Mapping[str, int]] = {"info": 0, "warning": 1, "critical": 2}
_SEVERITY: Final[Mapping[str, Severity]] = {"info": "info", "warning": "warning", "critical": "critical"}


class Key(NamedTuple):
    """What is watched."""

    kind: Kind
    subject: str
    segment: str
    window: str


class Finding(NamedTuple):
    """One look at what is watched.

    `crossed`: beyond the threshold; `recovered`: well back inside. Neither leaves everything as it is.
    """

    start_ms: int
    end_ms: int
    value: float
    reference: float
    threshold: float
    n: int
    severity: Severity
    crossed: bool
    recovered: bool
    evidence: Mapping[str, Any]

    @property
    def p_value(self) -> float:
        """The chance at which it would still have crossed; 1 where the test has none."""
        return float(self.evidence.get("p_value", 1.0))


class Open(msgspec.Struct, array_like=True):
    """An observation that is open."""

    opened_end_ms: int
    severity: str
    good: int
    last: tuple[int, int, float, float, float, int]
    seasonal: int = 0
    """Panes in a row that the calendar explained."""
    p_value: float = 1.0
    """The smallest that was said; 1 where the test has none."""


class Watches:
    """Open observations of one version.

    Parameters
    ----------
    model : str
    version : int
    """

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version
        self.open: dict[Key, Open] = {}

    def look(self, key: Key, finding: Finding, now_ms: int) -> Observation | None:
        """Take a finding in; an observation where something opened, got worse or less likely, turned out to be the
        season, or closed.

        Parameters
        ----------
        now_ms : int
            Watermark at which it is decided.
        """
        state = self.open.get(key)
        if state is None:
            if not finding.crossed:
                return None
            self.open[key] = Open(finding.end_ms, finding.severity, 0, _last(finding), p_value=finding.p_value)
            return self._say(key, finding, "opened", now_ms)
        if finding.crossed:
            state.good = 0
            state.last = _last(finding)
            state.seasonal = state.seasonal + 1 if finding.evidence.get("seasonal") is True else 0
            if state.seasonal == GOOD_PANES and finding.severity != state.severity:
                state.severity = finding.severity
                return self._say(key, finding, "updated", now_ms)
            worse = _RANK[finding.severity] > _RANK[state.severity]
            stronger = (
                not state.seasonal and state.p_value > LEAST_TOLD and finding.p_value <= state.p_value * LESS_LIKELY
            )
            if not worse and not stronger:
                return None
            if worse:
                state.severity = finding.severity
            state.p_value = min(state.p_value, finding.p_value)
            finding = finding._replace(severity=finding.severity if worse else _SEVERITY[state.severity])
            return self._say(key, finding, "updated", now_ms)
        if not finding.recovered:
            state.good = 0
            return None
        state.good += 1
        if state.good < GOOD_PANES:
            return None
        del self.open[key]
        return self._say(key, finding, "closed", now_ms)

    def close_all(self, now_ms: int, reason: str) -> list[Observation]:
        """Close whatever is open, because the version no longer answers."""
        return self.close(list(self.open), now_ms, reason)

    def close(self, keys: Iterable[Key], now_ms: int, reason: str) -> list[Observation]:
        """Close what is open about `keys`, although nothing was seen of it."""
        out = []
        for key in sorted(keys):
            state = self.open.pop(key)
            start, end, value, reference, threshold, n = state.last
            evidence = {"reason": reason, "opened_window_end": utc(state.opened_end_ms)}
            severity: Severity = "info"
            finding = Finding(start, end, value, reference, threshold, n, severity, False, True, evidence)
            out.append(self._say(key, finding, "closed", now_ms))
        return out

    def _say(self, key: Key, finding: Finding, status: Status, now_ms: int) -> Observation:
        return Observation(
            observation_id=derived_id("observation", self.model, self.version, *key, status, finding.end_ms, now_ms),
            model=self.model,
            version=self.version,
            kind=key.kind,
            subject=key.subject,
            segment=segment_of(key.segment),
            status=status,
            severity=finding.severity,
            window=key.window,
            window_start=utc(finding.start_ms),
            window_end=utc(finding.end_ms),
            value=finding.value,
            reference=finding.reference,
            threshold=finding.threshold,
            n=finding.n,
            observed_at=utc(now_ms),
            evidence=dict(finding.evidence),
        )


def _last(finding: Finding) -> tuple[int, int, float, float, float, int]:
    return (finding.start_ms, finding.end_ms, finding.value, finding.reference, finding.threshold, finding.n)
