"""`driftline bench pending`: many predictions that wait for their labels.

For each size: a running worker meets a full log of predictions and takes them all (load), then labels of every other
of the oldest predictions in the order they came (in order), then labels drawn at random over all of them (random; a
sample for large sizes, said in the row). Everything is on the broker before a phase begins (`benchmarks.gate`).
The smallest size is measured before and after the others: the ratios are against both.

Expected time: 50 M takes about 8 minutes where the join does 200 k events/s, 10 M two, 1 M half a minute.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bulk import Bulk, Ids, Records, permuted
from benchmarks.gate import id_range, label_chunks, prediction_chunks
from benchmarks.installation import Installation, described, install
from benchmarks.machine import machine
from benchmarks.processes import cores, rss_bytes
from benchmarks.progress import Span
from benchmarks.running import Course, wait_ready
from benchmarks.worker import Worker, check_totals
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.embedded import EmbeddedKafka

SIZES: Final = (1_000_000, 10_000_000, 50_000_000)
SAMPLE: Final = 2_000_000
PHASES: Final = ("load", "in_order", "random")
MIB: Final = 2**20
_LOG_BYTES: Final = 60
"""Upper bound of the broker's log for one prediction or label, compressed (measured: 41)."""
_STATE_BYTES: Final = 250
"""Upper bound of the state folder for one pending prediction while RocksDB compacts."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Phase:
    """One phase of one size."""

    name: str
    pending: int
    span: Span
    idle_rss: int
    rss: int
    state_bytes: int
    log_bytes: int

    def row(self, program: str) -> dict[str, Any]:
        """As a row of the document."""
        return {
            "name": f"{self.name} {short(self.pending)}",
            "version": program,
            "phase": self.name,
            "pending": self.pending,
            "value": round(self.span.rate),
            "unit": "events/s",
            "spread": None,
            "events": self.span.events,
            "seconds": round(self.span.seconds, 2),
            "cpu_seconds": round(self.span.cpu_seconds, 2),
            "cpu_us_per_event": round(self.span.cpu_seconds / self.span.events * 1e6, 3),
            "rss_mib": round(self.rss / MIB, 1),
            "peak_rss_mib": round(max(self.span.peak_rss_bytes, self.rss) / MIB, 1),
            "idle_rss_mib": round(self.idle_rss / MIB, 1),
            "state_mib": round(self.state_bytes / MIB, 1),
            "log_mib": round(self.log_bytes / MIB, 1),
            "rss_bytes_per_pending": round((self.rss - self.idle_rss) / self.pending, 1),
            "state_bytes_per_pending": round(self.state_bytes / self.pending, 1),
        }


def run(
    *,
    sizes: Sequence[int] = SIZES,
    sample: int = SAMPLE,
    only: Sequence[str] = PHASES,
    use_cores: int | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench pending --json``.

    Parameters
    ----------
    sizes : sequence of int
        Pending predictions.
    sample : int
        Most labels in a labelling phase; smaller sizes label half of what is pending in each.
    only : sequence of str
        Phases: ``load`` is always done, ``in_order`` and ``random`` where named.
    use_cores : int, optional
        Run worker and broker on that many cores.
    note : callable
        Gets lines of progress.
    """
    order = sorted(set(sizes))
    # Twice the smallest: the machine's mood changes over the minutes that the largest takes.
    runs = [*order, order[0]] if len(order) > 1 else order
    phases: dict[int, list[list[Phase]]] = {}
    skipped: dict[int, str] = {}
    with ExitStack() as stack:
        stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        for number, size in enumerate(runs):
            if size in skipped:
                continue
            if reason := _no_room(home, size, sample):
                skipped[size] = reason
                note(f"pending {short(size)} is skipped: {reason}")
                continue
            try:
                # A broker of its own: what earlier sizes left in its page cache and folders is gone.
                found = _measure_size(home / str(number), size, sample, only, note)
            except Exception as error:
                skipped[size] = str(error)
                note(f"pending {short(size)} failed: {error}")
                if len(order) == 1:
                    raise
                continue
            finally:
                shutil.rmtree(home / str(number), ignore_errors=True)
            phases.setdefault(size, []).append(found)
    rows = [row for size in order for row in _rows(size, phases.get(size, []), skipped.get(size, ""))]
    ratios = _ratios(order, phases)
    return {
        "bench": "pending",
        "machine": machine(),
        "rounds": 1,
        "settings": described({"sizes": list(order), "sample": sample, "cores": use_cores}),
        "rows": rows,
        "ratios": {name: round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_range": {name: [round(min(values), 4), round(max(values), 4)] for name, values in ratios.items()},
    }


def short(count: int) -> str:
    """A round number as people say it.

    Examples
    --------
    >>> short(50_000_000), short(20_000), short(1_234)
    ('50M', '20k', '1234')
    """
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def chosen(size: int, sample: int) -> tuple[Ids, Ids]:
    """Ids to label in order and at random: even ones from the oldest on, and a sample of all odd ones."""
    odd = size // 2
    count = min(sample, odd)
    in_order = id_range(0, 2 * count, 2)
    at_random = permuted(np.arange(count, dtype=np.uint64), odd) * np.uint64(2) + np.uint64(1)
    return in_order, at_random


# ------------------------------------------------------------------------------------------------- one size


def _measure_size(home: Path, size: int, sample: int, only: Sequence[str], note: Note) -> list[Phase]:
    home.mkdir()
    with EmbeddedKafka(home) as broker:
        place = install(broker.start(), home, "pending")
        bulk = Bulk(size)
        in_order, at_random = chosen(size, sample)
        with Worker(place.settings) as worker:
            wait_ready(worker)
            meter = _Meter(home, place, worker, size, note)
            phases = [meter.load(bulk)]
            check_totals(place.kafka, predictions=size, pending=size)
            labelled = 0
            for name, ids in (("in_order", in_order), ("random", at_random)):
                if name in only:
                    phases.append(meter.label(name, bulk, ids))
                    labelled += len(ids)
            check_totals(
                place.kafka,
                predictions=size,
                pending=size - labelled,
                labelled=labelled,
                labels_matched=labelled,
                labels_duplicate=0,
            )
        return phases


class _Meter:
    """Lets a running worker through gates and measures it."""

    def __init__(self, home: Path, place: Installation, worker: Worker, size: int, note: Note) -> None:
        self._home = home
        self._place = place
        self._worker = worker
        self._size = size
        self._note = note
        self._course = Course(place.kafka, [worker])
        self._idle_rss = rss_bytes(worker.child.pid)

    def load(self, bulk: Bulk) -> Phase:
        return self._through("load", PREDICTIONS, prediction_chunks(bulk))

    def label(self, name: str, bulk: Bulk, ids: Ids) -> Phase:
        return self._through(name, GROUND_TRUTH, label_chunks(bulk, ids))

    def _through(self, name: str, topic: str, records: Iterable[Records]) -> Phase:
        what = f"pending {short(self._size)}: {name}"
        span = self._course.take(
            [(topic, records)], filled=lambda count: self._note(f"{what}: {count:,} records are on the broker")
        )
        phase = Phase(
            name=name,
            pending=self._size,
            span=span,
            idle_rss=self._idle_rss,
            rss=rss_bytes(self._worker.child.pid),
            state_bytes=disk_bytes(self._place.settings.state_dir),
            log_bytes=disk_bytes(self._home) - disk_bytes(self._place.settings.home),
        )
        self._note(
            f"{what}: {span.rate:,.0f}/s, {phase.rss / MIB:,.0f} MiB in memory, "
            f"{phase.state_bytes / MIB:,.0f} MiB of state"
        )
        return phase


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on disk; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def _no_room(home: Path, size: int, sample: int) -> str:
    needed = size * (_LOG_BYTES + _STATE_BYTES) + 2 * min(sample, size // 2) * _LOG_BYTES
    free = shutil.disk_usage(home).free
    if free >= needed:
        return ""
    return f"{home} has {free / 2**30:.1f} GiB free, up to {needed / 2**30:.1f} GiB are needed"


# ------------------------------------------------------------------------------------------------- document


def _rows(size: int, runs: Sequence[Sequence[Phase]], reason: str) -> list[dict[str, Any]]:
    program = version("driftline")
    rows: list[dict[str, Any]] = []
    for phases in zip(*runs, strict=True):
        # Several runs of a size: the row of the median one, with the range of all.
        ranked = sorted(phases, key=lambda phase: phase.span.rate)
        row = ranked[(len(ranked) - 1) // 2].row(program)
        row["value"] = round(statistics.median(phase.span.rate for phase in ranked))
        row["spread"] = [round(ranked[0].span.rate), round(ranked[-1].span.rate)]
        rows.append(row)
    if reason:
        rows.append(
            {
                "name": f"load {short(size)}",
                "version": program,
                "pending": size,
                "value": None,
                "unit": "events/s",
                "spread": None,
                "skipped": reason,
            }
        )
    return rows


def _ratios(order: Sequence[int], phases: dict[int, list[list[Phase]]]) -> dict[str, list[float]]:
    smallest, *larger = order
    ratios: dict[str, list[float]] = {}
    for size in larger:
        for run_large in phases.get(size, []):
            for run_small in phases.get(smallest, []):
                for large, small in zip(run_large, run_small, strict=True):
                    name = f"{large.name} {short(size)}/{short(smallest)}"
                    ratios.setdefault(name, []).append(large.span.rate / small.span.rate)
    return ratios
