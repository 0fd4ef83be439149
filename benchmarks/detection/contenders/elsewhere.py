"""Contenders that need environments of their own: Evidently, NannyML, alibi-detect."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.contenders.base import Alarms, beyond
from benchmarks.detection.streams.base import Stream
from benchmarks.environments import PROGRAMS, python_of, run, version_in

_DEADLINE_S = 3_600


class _Elsewhere:
    """A program that reads streams from a file and writes what it found into another."""

    name: str
    knob: str
    default: float
    shy: float
    eager: float
    costly: bool = True
    distribution: str
    program: str

    def __init__(self) -> None:
        self._python = ""
        self._about: dict[str, object] = {}

    def prepare(self, cache: Path) -> str:
        """Make the environment.

        Raises
        ------
        UnavailableError
        """
        self._python = python_of(cache, self.distribution)
        return version_in(self._python, self.distribution)

    def about(self) -> Mapping[str, object]:
        """What it said of itself."""
        return {"knob": self.knob, **self._about}

    def code(self) -> Sequence[Path]:
        """The program that runs there."""
        return [PROGRAMS / self.program]

    def _run(self, streams: Sequence[Stream], **settings: float) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            given, out = Path(folder) / "streams.npz", Path(folder) / "found.json"
            np.savez(given, **_arrays(streams), **settings)  # type: ignore[arg-type]
            run([self._python, str(PROGRAMS / self.program), str(given), str(out)], timeout_s=_DEADLINE_S)
            found = json.loads(out.read_text(encoding="utf-8"))
        self._about |= found["about"]
        return found


def _arrays(streams: Sequence[Stream]) -> dict[str, Any]:
    out: dict[str, Any] = {"streams": len(streams)}
    for number, stream in enumerate(streams):
        panes = [*stream.reference, *stream.live]
        out[f"reference_{number}"] = len(stream.reference)
        out[f"sizes_{number}"] = np.array([len(rows.label) for rows in panes])
        for name in ("errors", "label", "guess", "score"):
            out[f"{name}_{number}"] = np.concatenate([getattr(rows, name) for rows in panes])
    return out


class _Scored(_Elsewhere):
    """One that gives every pane a number and alarms beyond a threshold: run once, judged at any."""

    def scores(self, streams: Sequence[Stream]) -> list[list[float]]:
        """Run over every stream."""
        found: list[list[float]] = self._run(streams)["scores"]
        return found

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """Panes beyond the threshold."""
        return [beyond(own, setting) for own in self.scores(streams)]


class Evidently(_Scored):
    """Its default preset on the column of errors, every pane against the reference."""

    name = "evidently"
    knob = "threshold"
    default = 0.1
    shy = 0.9
    eager = 1e-4
    distribution = "evidently"
    program = "detect_evidently.py"


class NannyML(_Scored):
    """Its realised performance: accuracy by day, limits at so many standard deviations."""

    name = "nannyml"
    knob = "std multiplier"
    default = 3.0
    shy = 20.0
    eager = 0.05
    costly = False
    distribution = "nannyml"
    program = "detect_nannyml.py"


class AlibiDetect(_Elsewhere):
    """Its online test for ones and zeros. It has no default run time or window: ours is asked for, one pane is held."""

    name = "alibi_detect"
    knob = "ert, panes"
    default = 30.0
    shy = 300.0
    eager = 3.0
    distribution = "alibi-detect"
    program = "detect_alibi.py"

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """Run over every stream."""
        sizes = [len(rows.label) for stream in streams for rows in stream.reference]
        rows = int(np.median(sizes))
        found: list[Alarms] = self._run(streams, ert=int(setting * rows), window=rows)["alarms"]
        return found
