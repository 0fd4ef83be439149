"""Ours in a process of its own: compile the reference, then count, aggregate and judge a window. Prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a program, from a clone

from schemas.events import DriftMetric, JoinedDelta, Observation, PaneDelta, PartitionWatermark, WatermarkUpdate
from schemas.specification import parse
from streams.aggregate import AggregatePartition
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.traffic import traffic_counters

DAY_MS = 86_400_000
REFERENCE_DAYS = 14
_SPECIFICATION = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[metrics]
primary = "accuracy"
windows = ["1d"]
[features]
"""


def plan_of(reference: np.ndarray[Any, Any], names: list[str]) -> PanePlan:
    """Compile: everything that is done once, at registration."""
    spec = parse(_SPECIFICATION + "".join(f'{name} = "numeric"\n' for name in names))
    n = reference.shape[1]
    label = np.arange(n) % 2
    compiled = compile_reference(
        spec,
        dict(zip(names, reference, strict=True)),
        labels=label,
        predictions=label,
        scores=label * 0.5 + 0.25,
        event_time_ms=np.arange(n) * (REFERENCE_DAYS * DAY_MS) // n,
    )
    return PanePlan(spec, compiled)


def judge(
    plan: PanePlan, columns: dict[str, np.ndarray[Any, Any]]
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Statistics by feature, and the features that the budget calls drifted."""
    counters = pack_dense(traffic_counters(plan, columns)[0])
    aggregate = AggregatePartition(1, lambda model, version: plan)
    # The day before: a version's first day may be half a day, and is not judged.
    aggregate.merge(JoinedDelta("m", 1, plan.layout, 0, [PaneDelta("", at, at, counters) for at in (0, DAY_MS)]))
    statistics: dict[str, dict[str, float | None]] = {}
    drifted = []
    for event in aggregate.merge(WatermarkUpdate([PartitionWatermark(0, 2 * DAY_MS, False)])):
        if isinstance(event, DriftMetric) and event.subject.startswith("feature:"):
            statistics[event.subject.partition(":")[2]] = event.statistics
        elif isinstance(event, Observation) and event.kind == "data-drift" and event.status == "opened":
            drifted.append(event.subject.partition(":")[2])
    return statistics, drifted


def main() -> None:
    folder = Path(sys.argv[1])
    reference, window = np.load(folder / "reference.npy"), np.load(folder / "window.npy")
    names = [f"f{number}" for number in range(len(reference))]
    began, cpu = time.perf_counter(), time.process_time()
    plan = plan_of(reference, names)
    compiled_s, compiled_cpu_s = time.perf_counter() - began, time.process_time() - cpu
    columns = dict(zip(names, window, strict=True))
    began, cpu = time.perf_counter(), time.process_time()
    statistics, drifted = judge(plan, columns)
    told = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "reference_seconds": compiled_s,
        "reference_cpu_seconds": compiled_cpu_s,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "statistics": statistics,
        "drifted": [name for name in names if name in drifted],
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
