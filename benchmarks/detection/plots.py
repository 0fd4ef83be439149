"""The plots of `docs/detection.md`: three streams, day by day, with what each contender said. Plain SVG, no library.

python -m benchmarks.detection.plots docs/images
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.detection.contenders.base import Alarms, Contender
from benchmarks.detection.contenders.driftline import Driftline
from benchmarks.detection.contenders.river import detectors
from benchmarks.detection.streams import GENERATED
from benchmarks.detection.streams.base import Stream

SHOWN: Mapping[str, int] = {"abrupt": 1, "gradual": 1, "autocorrelated": 2}
"""Kind and seed."""
NAMES = ("river_adwin", "river_page_hinkley_up", "river_hddm_a")
ROWS = 200
_WIDTH, _HEIGHT, _LEFT, _LANE = 860, 220, 150, 16


def shown() -> list[Contender]:
    """Who is in the plots: ours and three of River's, all at their defaults."""
    return [Driftline(), *(one for one in detectors() if one.name in NAMES)]


def plot(stream: Stream, alarms: Mapping[str, Alarms]) -> str:
    """One SVG: the error rate by pane, the change shaded, a lane of alarms for everybody."""
    rates = [float(rows.errors.mean()) for rows in stream.live]
    top, bottom = max(rates) * 1.1, min(rates) * 0.8
    step = (_WIDTH - _LEFT - 10) / len(rates)

    def x(pane: float) -> float:
        return _LEFT + pane * step

    def y(rate: float) -> float:
        return 10 + (top - rate) / (top - bottom) * (_HEIGHT - 20)

    height = _HEIGHT + _LANE * (len(alarms) + 1) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for change in stream.changes:
        parts.append(
            f'<rect x="{x(change.start):.1f}" y="10" width="{(change.end - change.start) * step:.1f}" '
            f'height="{height - 34}" fill="#f6e3c5"/>'
        )
    level = float(np.concatenate([rows.errors for rows in stream.reference]).mean())
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
        f'stroke="#999" stroke-dasharray="4"/>'
        f'<text x="{_LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">reference {level:.3f}</text>'
    )
    points = " ".join(f"{x(pane + 0.5):.1f},{y(rate):.1f}" for pane, rate in enumerate(rates))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#2a5d8f" stroke-width="1.4"/>')
    parts.append(f'<text x="{_LEFT - 6}" y="22" text-anchor="end">error rate</text>')
    for lane, (name, own) in enumerate(alarms.items()):
        at = _HEIGHT + _LANE * (lane + 1)
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{name}</text>')
        parts += [
            f'<rect x="{x(pane):.1f}" y="{at - 5}" width="{max(step - 0.5, 1):.1f}" height="10" fill="#b3362b"/>'
            for pane in own
        ]
    parts.append(f'<text x="{_WIDTH - 10}" y="{height - 6}" text-anchor="end">days</text>')
    parts += [f'<text x="{x(day):.1f}" y="{height - 6}">{day}</text>' for day in range(0, len(rates) - 5, 20)]
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for kind, seed in SHOWN.items():
        stream = GENERATED[kind](seed, ROWS)
        alarms = {one.name: one.alarms([stream], one.default)[0] for one in shown()}
        (folder / f"detection-{kind}.svg").write_text(plot(stream, alarms), encoding="utf-8")
        told = {name: own[:8] for name, own in alarms.items()}
        sys.stdout.write(f"{kind}: change at {[change.start for change in stream.changes]}, alarms {told}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
