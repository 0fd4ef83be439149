"""What a contender is: a detector with one knob, run over whole streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks.detection.streams.base import Stream

Alarms = list[int]
"""Panes of the live part at whose closing the contender is in alarm, ascending."""


class Contender(Protocol):
    """One detector.

    Attributes
    ----------
    name : str
    knob : str
        Name of the setting that trades false alarms for delay.
    default : float
        The knob where nobody turns it.
    shy, eager : float
        Ends of the knob's range: fewest and most alarms.
    costly : bool
        Slow: gets fewer streams, which its rows say.
    """

    name: str
    knob: str
    default: float
    shy: float
    eager: float
    costly: bool

    def prepare(self, cache: Path) -> str:
        """Make an environment where it needs one; returns the version.

        Raises
        ------
        UnavailableError
        """

    def about(self) -> Mapping[str, object]:
        """What the row says of it."""

    def code(self) -> Sequence[Path]:
        """Sources (files, folders) that its answers depend on, besides its version."""

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """Run over every stream, its reference first."""


@runtime_checkable
class Scored(Contender, Protocol):
    """One that gives every pane a number, whatever the setting, and alarms beyond it: run once, judged at any."""

    def scores(self, streams: Sequence[Stream]) -> list[list[float]]:
        """The numbers of the live panes of every stream."""


def beyond(scores: Sequence[float], setting: float) -> Alarms:
    """Panes whose number is beyond the setting."""
    return [pane for pane, value in enumerate(scores) if value > setting]
