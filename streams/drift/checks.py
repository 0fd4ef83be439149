"""One question asked of a window, and the answer of several questions about the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from schemas.events import Severity
from streams.calibration import Bound

_RANK: Final[Mapping[str, int]] = {"info": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True)
class Check:
    """A statistic beside its bound.

    Parameters
    ----------
    statistic : str
    value : float
    p : float
        Chance of a false crossing.
    at : callable
        The bound at a chance.
    severity : callable
        From bound and value.
    details : mapping
        For the evidence.
    fixed : bool
        A person set the threshold: no chance is behind it.
    """

    statistic: str
    value: float
    p: float
    at: Callable[[float], Bound]
    severity: Callable[[Bound, float], Severity]
    details: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False

    @cached_property
    def bound(self) -> Bound:
        """The bound at `p`."""
        return self.at(self.p)

    @property
    def crossed(self) -> bool:
        """Whether the value lies beyond the bound."""
        return self.bound.crossed(self.value)

    @property
    def recovered(self) -> bool:
        """Whether the value is well back inside."""
        return self.bound.recovered(self.value)

    @property
    def grade(self) -> Severity:
        """Severity of the value; nothing that did not cross is severe."""
        return self.severity(self.bound, self.value) if self.crossed else "info"


def lead(checks: Sequence[Check]) -> Check:
    """The check that speaks for all: crossed before not, severe before slight, the first of equals."""
    return min(checks, key=lambda check: (not check.crossed, -_RANK[check.grade]))
