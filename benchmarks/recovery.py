"""`driftline bench recovery`: kill -9 in the middle of work, with the state folder and without.

For each size: a worker takes that many predictions (the join rate), is killed while it labels, and its successor starts
at once: with the state folder, then, killed again, with the folder deleted. Afterwards everything else is labelled, and
what the join accounts for and what the metrics count is compared with what was sent.

A row's value is the time from the kill to the successor's first commit: partitions assigned, state restored, one batch
joined. `group_wait_s` of it is the process starting and taking the dead member's place in the group; `restore_s` is the
rest. `caught_up_s` is the time from the kill until everything sent before it is committed. The replay rate is what the
log had to be read again for over `restore_s`; `rebuilt_s` adds up what the worker's log names for its partitions,
several of which are rebuilt at a time.

Expected time: 10 M takes about 5 minutes where the join does 200 k events/s, 1 M one.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from agents.monitoring.totals import newest_totals
from benchmarks.bulk import Bulk
from benchmarks.gate import Gate, id_range, label_chunks, prediction_chunks
from benchmarks.installation import Installation, described, install
from benchmarks.machine import machine
from benchmarks.pending import MIB, short
from benchmarks.processes import cores, rss_bytes
from benchmarks.progress import Ends
from benchmarks.running import Course, Membership, wait_ready, wait_until
from benchmarks.visible import Balance, balance
from benchmarks.worker import Worker
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.embedded import EmbeddedKafka

SIZES: Final = (1_000_000, 10_000_000)
MOST_TAIL: Final = 500_000
"""Labels that are being joined when the worker is killed."""
_REBUILT = re.compile(r"rebuilt from \d+ journal records, \d+ entries, in ([\d.]+) s")
_OPENED = re.compile(r"opened with \d+ entries in ([\d.]+) s")

Note = Callable[[str], None]


@dataclass(frozen=True)
class Recovery:
    """One kill and what followed, in seconds since the kill."""

    folder: bool
    labels_before: int
    assigned_s: float
    resumed_s: float
    caught_up_s: float
    replayed: int
    rebuilt_s: float
    opened_s: float
    rss: int

    @property
    def restore_s(self) -> float:
        """From the assignment to the first commit."""
        return max(self.resumed_s - self.assigned_s, 1e-3)

    @property
    def replay_rate(self) -> float:
        """Events replayed a second."""
        return self.replayed / self.restore_s


@dataclass(frozen=True)
class _Killed:
    """A worker that was killed: when, what it had labelled, and what it was at."""

    at: float
    folder: bool
    labelled: int
    ends: Ends
    members: frozenset[str]


def run(
    *, sizes: Sequence[int] = SIZES, use_cores: int | None = None, note: Note = lambda _: None, **settings: Any
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench recovery --json``.

    Parameters
    ----------
    sizes : sequence of int
        Pending predictions.
    use_cores : int, optional
        Run worker and broker on that many cores.
    note : callable
        Gets lines of progress.
    **settings
        Over the worker's, by field name.
    """
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    timeout_ms = 0
    with ExitStack() as stack:
        stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        for number, size in enumerate(sorted(set(sizes))):
            folder = home / str(number)
            folder.mkdir()
            try:
                with EmbeddedKafka(folder) as broker:
                    place = install(broker.start(), folder, "recovery", **settings)
                    timeout_ms = place.settings.session_timeout_ms
                    found, ratio = _measure_size(place, size, note)
            except Exception as error:
                note(f"recovery {short(size)} failed: {error}")
                if len(sizes) == 1:
                    raise
                found, ratio = [_skipped(size, str(error))], {}
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            rows += found
            ratios |= ratio
    return {
        "bench": "recovery",
        "machine": machine(),
        "rounds": 1,
        "settings": described({"sizes": list(sizes), "session_timeout_ms": timeout_ms, "cores": use_cores, **settings}),
        "rows": rows,
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        "ratio_range": {name: [round(value, 4)] * 2 for name, value in ratios.items()},
    }


# ------------------------------------------------------------------------------------------------- one size


def _measure_size(place: Installation, size: int, note: Note) -> tuple[list[dict[str, Any]], dict[str, float]]:
    bulk, what = Bulk(size), f"recovery {short(size)}"
    tail = min(MOST_TAIL, size // 4)
    with ExitStack() as stack:
        worker = stack.enter_context(Worker(place.settings))
        wait_ready(worker)
        load = Course(place.kafka, [worker]).take([(PREDICTIONS, prediction_chunks(bulk))])
        note(f"{what}: loaded at {load.rate:,.0f}/s")
        recoveries: list[Recovery] = []
        for number, folder in enumerate((True, False)):
            ids = (number * tail, (number + 1) * tail)
            killed = _kill(place, worker, bulk, ids, folder=folder)
            worker = stack.enter_context(Worker(place.settings))
            recovery = _follow(place, worker, bulk, killed)
            recoveries.append(recovery)
            note(
                f"{what}: {'with' if folder else 'without'} the folder at work after {recovery.resumed_s:.1f} s "
                f"({recovery.assigned_s:.1f} s for the group), caught up after {recovery.caught_up_s:.1f} s"
            )
        rest = id_range(2 * tail, size)
        label = Course(place.kafka, [worker]).take([(GROUND_TRUTH, label_chunks(bulk, rest))])
        found = balance(place.kafka, bulk)
        accounted = _accounted(newest_totals(place.kafka), size)
        note(f"{what}: labelled at {label.rate:,.0f}/s; lost {found.lost}, duplicated {found.duplicated}")
    rows = [_row(size, recovery, found, accounted, load.rate) for recovery in recoveries]
    return rows, {f"replay/join {short(size)}": recoveries[-1].replay_rate / load.rate}


def _kill(place: Installation, worker: Worker, bulk: Bulk, labels: tuple[int, int], *, folder: bool) -> _Killed:
    """Kill the worker in the middle of these labels."""
    course, group = Course(place.kafka, [worker]), Membership(place.kafka)
    with Gate(place.kafka) as gate:
        gate.send(GROUND_TRUTH, label_chunks(bulk, id_range(*labels)))
        ends = gate.filled()
        before, members = course.committed(ends), group.holders().keys()
        gate.open()
        # As soon as a part is committed: the worker is in the middle of the next batch, or of its commit.
        wait_until(lambda: course.committed(ends) > before, [worker], "no label was committed")
        worker.kill()
    killed_at = time.monotonic()
    if not folder:
        shutil.rmtree(place.settings.state_dir)
    # The successor's log is about its start alone.
    worker.child.log.rename(worker.child.log.with_suffix(f".{labels[0]}.log"))
    labelled = labels[0] + course.committed(ends) - before
    return _Killed(killed_at, folder, labelled, ends, frozenset(members))


def _follow(place: Installation, worker: Worker, bulk: Bulk, killed: _Killed) -> Recovery:
    """Follow the successor until it has caught up."""
    course, group = Course(place.kafka, [worker]), Membership(place.kafka)
    wait_until(lambda: bool(group.holders().keys() - killed.members), [worker], "the successor got no partitions")
    assigned, at_start, total = time.monotonic(), course.committed(killed.ends), sum(killed.ends.values())
    # The ready file says less: a worker that holds no partitions for long counts as ready, too.
    if at_start < total:
        wait_until(lambda: course.committed(killed.ends) > at_start, [worker], "not restored", 1_800.0)
    else:
        wait_ready(worker, 1_800.0)
    resumed = time.monotonic()
    wait_until(lambda: course.committed(killed.ends) >= total, [worker], "not caught up", 1_800.0)
    caught_up = time.monotonic()
    log = worker.child.log.read_text(encoding="utf-8")
    rebuilt_s, opened_s = (sum(map(float, told.findall(log))) for told in (_REBUILT, _OPENED))
    return Recovery(
        folder=killed.folder,
        labels_before=killed.labelled,
        assigned_s=assigned - killed.at,
        resumed_s=resumed - killed.at,
        caught_up_s=caught_up - killed.at,
        replayed=0 if killed.folder else bulk.count + killed.labelled,
        rebuilt_s=rebuilt_s,
        opened_s=opened_s,
        rss=rss_bytes(worker.child.pid),
    )


def _accounted(totals: dict[str, int], size: int) -> bool:
    """Whether the join's own accounting has every prediction labelled once, and nothing else."""
    expected = {"predictions": size, "labelled": size, "pending": 0, "labels": size, "labels.matched": size}
    others = ("expired", "predictions.duplicate", "predictions.dead", "predictions.skipped", "labels.duplicate")
    return all(totals.get(name, 0) == count for name, count in (expected | dict.fromkeys(others, 0)).items())


# ------------------------------------------------------------------------------------------------- document


def _row(size: int, recovery: Recovery, found: Balance, accounted: bool, join_rate: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": f"{'with' if recovery.folder else 'without'} folder {short(size)}",
        "version": version("driftline"),
        "pending": size,
        "folder": recovery.folder,
        "value": round(recovery.resumed_s, 2),
        "unit": "s",
        "spread": None,
        "group_wait_s": round(recovery.assigned_s, 2),
        "restore_s": round(recovery.restore_s, 2),
        "caught_up_s": round(recovery.caught_up_s, 2),
        "labels_before_kill": recovery.labels_before,
        "join_events_per_s": round(join_rate),
        "rss_mib": round(recovery.rss / MIB, 1),
        "lost": found.lost,
        "duplicated": found.duplicated,
        "accounting": "complete" if accounted else "WRONG",
    }
    if recovery.folder:
        row["opened_s"] = round(recovery.opened_s, 2)
    else:
        row |= {
            "replayed": recovery.replayed,
            "replay_events_per_s": round(recovery.replay_rate),
            "rebuilt_s": round(recovery.rebuilt_s, 2),
        }
    return row


def _skipped(size: int, reason: str) -> dict[str, Any]:
    return {
        "name": f"recovery {short(size)}",
        "version": version("driftline"),
        "pending": size,
        "value": None,
        "unit": "s",
        "spread": None,
        "skipped": reason,
    }
