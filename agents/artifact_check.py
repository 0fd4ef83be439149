"""The child process of `agents.artifacts.check_in_child`: limits itself, loads, predicts, says what went wrong.

It is forked by `agents.check_server`, or started by itself where that is not to be had: ``python -m
agents.artifact_check``. The task is what standard input holds: a line of JSON, then the bytes of the model. It needs
no keys, no store and no network: hash and signature were checked by whoever handed the bytes over.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

from schemas.errors import DriftlineError
from schemas.specification import DataSection, FeatureKind, MetricsSection, ModelSection, Specification

_MAX_WRITTEN_BYTES = 1_000_000
_PLAIN: dict[str, object] = {"numeric": 0.0, "categorical": "a", "boolean": False}


def main() -> int:
    """Read the task from standard input; exit code 0 only when the model loaded and predicted."""
    task = json.loads(sys.stdin.buffer.readline())
    # One thread: OpenMP's would spin beside the traffic, and count against the limits. Set before anything loads it.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    # As if it had been started where the caller is: types that a specification allows are found as they are there.
    os.chdir(task["folder"])
    sys.path[:] = dict.fromkeys([*task["path"], *sys.path])
    resource.setrlimit(resource.RLIMIT_AS, (task["memory_bytes"], task["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_s"], task["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_WRITTEN_BYTES, _MAX_WRITTEN_BYTES))
    try:
        # Read, and imported, below the limits, so that they hold for everything.
        from agents.model_file import load

        data = sys.stdin.buffer.read()
        model = load(data, task["where"], task["allowed"])
        if task["features"]:
            _smoke(model, task["features"], task["rows"])
    except MemoryError:
        print("out of memory", file=sys.stderr)
        return 1
    except DriftlineError as error:
        # The parent says where; what to do about it would be lost behind that.
        print(" → ".join(filter(None, [error.what, error.remedy])), file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001  whatever it is, the parent wants the last line
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _smoke(model: Any, features: Mapping[str, FeatureKind], rows: list[dict[str, object]]) -> None:
    from agents.features import feature_frame

    rows = rows or [{name: _PLAIN[kind] for name, kind in features.items()}]
    # Only the features of it are looked at: the frame is made exactly as serving makes it.
    spec = Specification(
        model=ModelSection(name="smoke-test", task="regression"),
        data=DataSection(id="id", event_time="at", label="label", max_label_delay="1d"),
        features=dict(features),
        metrics=MetricsSection(primary="rmse"),
    )
    frame = feature_frame(spec, {name: [row.get(name) for row in rows] for name in features}, rows=len(rows))
    answers = model.predict(frame)
    if len(answers) != len(frame):
        raise ValueError(f"{len(answers)} predictions for {len(frame)} rows")


if __name__ == "__main__":
    sys.exit(main())
