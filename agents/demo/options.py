"""What a demo run can be told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path


@dataclass(frozen=True)
class DemoOptions:
    """Settings of one demo run.

    Parameters
    ----------
    project : Path
        The flights project; its `flights.py` builds the January table and the replay.
    home : Path
        Folder of the run; emptied first.
    start, until : date
        Days of departure (local calendar) that are replayed, `until` exclusive.
    lockstep : bool
        Each event-time day is a barrier. False: free-running at `speed`.
    speed : float
        Event-time seconds per second when free-running; 0: as fast as it goes.
    manual : bool
        A person approves.
    disturb : bool
        Add the seeded disturbance.
    seed : int
        Seed of the disturbance.
    keep : bool
        Leave everything running at the end.
    report : Path
        Folder of `summary.json` and `report.html`.
    probation : str
        Duration that promoted versions are on probation for; empty: as the project says.
    """

    project: Path
    home: Path
    report: Path
    start: date = date(2013, 2, 1)
    until: date = date(2014, 1, 1)
    lockstep: bool = True
    speed: float = 0.0
    manual: bool = False
    disturb: bool = True
    seed: int = 2013
    keep: bool = False
    partitions: int = 4
    spoil: bool = True
    probation: str = ""
