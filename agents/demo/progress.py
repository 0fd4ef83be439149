"""How far a run has come: what the view shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from agents.demo.scores import Metrics
from agents.demo.world import World


@dataclass
class Progress:
    """What the view shows."""

    world: World
    total: int
    days_total: int
    started: float
    clock_ms: int = 0
    sent: int = 0
    days_done: int = 0
    live: Metrics = field(default_factory=dict)
    frozen: Metrics = field(default_factory=dict)
    lags: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started
