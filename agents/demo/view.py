"""The live view of a demo run in a terminal; a line a fortnight where there is no terminal."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from agents.demo.progress import Progress

PLAIN_EVERY_DAYS = 14


class View:
    """Shows a `Progress` on standard error: standard output belongs to the summary."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._console = Console(stderr=True)
        self._enabled = enabled
        self._live: Live | None = None
        self._said = -PLAIN_EVERY_DAYS
        self._drawn = 0.0

    def __enter__(self) -> View:
        if self._enabled and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, screen=False)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._enabled:
            self._console.print(text, highlight=False)

    def show(self, progress: Progress, *, force: bool = False) -> None:
        """Draw, at most ten times a second."""
        if not self._enabled:
            return
        if self._live is None:
            day = progress.days_done
            if day - self._said >= PLAIN_EVERY_DAYS or (force and day != self._said):
                self._said = day
                print(_line(progress), file=sys.stderr, flush=True)
            return
        now = time.monotonic()
        if force or now - self._drawn > 0.1:
            self._drawn = now
            self._live.update(_screen(progress), refresh=True)


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(max(ms, 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(progress: Progress) -> str:
    world = progress.world
    return (
        f"{_clock(progress.clock_ms - 1)}  requests {progress.sent:,}  live AUC {_number(progress.live.get('roc_auc'))}"
        f" (frozen {_number(progress.frozen.get('roc_auc'))}, last 28 days)  champion v{world.champion}"
        f"  incidents {len(world.incidents)}  runs {len(world.runs)}  swaps {len(world.swaps)}"
        f"  {progress.elapsed_s:.0f} s"
    )


def _screen(progress: Progress) -> Panel:
    world = progress.world
    head = Table.grid(padding=(0, 3))
    head.add_row(
        f"[bold]{_clock(progress.clock_ms - 1)}[/]",
        f"{progress.sent:,} of {progress.total:,} requests",
        f"{progress.sent / max(progress.elapsed_s, 1e-9):,.0f}/s",
        f"day {progress.days_done} of {progress.days_total}",
        f"{progress.elapsed_s:.0f} s",
    )
    quality = Table(title="quality, last 28 days", title_justify="left", box=None)
    for column in ("", "live", "frozen v1"):
        quality.add_column(column, justify="right")
    for name in ("roc_auc", "accuracy", "brier"):
        quality.add_row(name, _number(progress.live.get(name)), _number(progress.frozen.get(name)))
    lags = Table(title="records behind", title_justify="left", box=None)
    lags.add_column("")
    lags.add_column("", justify="right")
    for group, value in progress.lags.items():
        lags.add_row(group, f"{value:,}")
    runs = Table(title="runs", title_justify="left", box=None, min_width=40)
    for column in ("trigger", "version", "decision", "reason"):
        runs.add_column(column, max_width=44, no_wrap=True)
    for run in list(world.runs.values())[-6:]:
        runs.add_row(
            getattr(run, "trigger", ""),
            str(getattr(run, "version", "") or ""),
            getattr(run, "decision", "running" if type(run).__name__ == "RunStarted" else "failed"),
            getattr(run, "reason", ""),
        )
    incidents = Table(
        title=f"incidents ({len(world.open_incidents)} open)", title_justify="left", box=None, min_width=40
    )
    incidents.add_column("", no_wrap=True, min_width=40, max_width=100)
    for alert in list(world.incidents.values())[-5:]:
        incidents.add_row(f"{alert.status:7} {alert.severity:8} {alert.title}")
    swaps = Table(
        title=f"swaps (v{world.served or '–'} serves)",
        title_justify="left",
        box=None,
        min_width=32,
    )
    swaps.add_column("", min_width=32)
    for event, at_ms in world.swaps[-5:]:
        source = "–" if event.from_version is None else f"v{event.from_version}"
        swaps.add_row(f"{_clock(at_ms)[:10]}  {source} → v{event.to_version}  pause {event.pause_ms:.1f} ms")
    middle = Table.grid(padding=(0, 4))
    middle.add_row(quality, lags, swaps)
    footer = progress.note
    return Panel(Group(head, "", middle, "", runs, "", incidents, "", footer), title="Driftline", border_style="blue")
