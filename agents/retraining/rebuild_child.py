"""The process that makes a version again: fits the project on the table it is given, and predicts with both models.

It runs in the environment that the version was trained in, which holds only what training needs. What it reads was
checked by `agents.retraining.rebuild`; its answer is one JSON document on standard output.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Read the task from standard input; exit code 0 only when both models have predicted."""
    task = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what steps print is no part of the answer
    from schemas.errors import DriftlineError

    try:
        answer = _rebuild(task)
    except DriftlineError as error:
        answer = {"error": {"what": error.what, "where": error.where, "remedy": error.remedy}}
    except MemoryError:
        answer = {"error": {"what": "out of memory", "where": "", "remedy": ""}}
    answers.write(json.dumps(answer))
    answers.flush()
    return 1 if "error" in answer else 0


def _rebuild(task: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd

    from agents.retraining.lock import lock_of
    from agents.retraining.project import load_project
    from agents.retraining.threads import computing, limited
    from agents.retraining.trainer import event_times_ms, fit, table_hash
    from agents.skops_file import dump_model, load_skops
    from schemas.codec import encode

    folder = Path(task["folder"])
    project = load_project(folder / "code")
    table = pd.read_parquet(folder / "table.parquet")
    spec = project.spec
    with limited(task["compute"]):
        before = table[event_times_ms(table, spec) < task["holdout_from_ms"]].reset_index(drop=True)
        estimator, _ = fit(project, before, where="recorded rows", seed=task["seed"])
        compute = computing()
        data = dump_model(estimator)
        original = load_skops((folder / "model.skops").read_bytes(), "recorded model", spec.model.allowed_types)
        rows = table[spec.columns()]
        compared = _compare(spec, load_skops(data, "rebuilt model", spec.model.allowed_types), original, rows)
    (folder / "rebuilt.skops").write_bytes(data)
    return {
        "artifact": hashlib.sha256(data).hexdigest(),
        "tree": project.tree_hash,
        "rows_sha256": table_hash(table),
        "trained_rows": int(before[spec.data.label].notna().sum()),
        "predictions": compared,
        "compute": compute,
        "environment": json.loads(encode(lock_of(project.files))),
    }


def _compare(spec: Any, rebuilt: Any, original: Any, rows: Any) -> dict[str, Any]:
    """How the two answer the same rows: every number, bit by bit."""
    import numpy as np

    from agents.retraining.scoring import score

    one, two = score(spec, original, rows), score(spec, rebuilt, rows)
    different = np.zeros(len(rows), dtype=bool)
    largest = 0.0
    pairs = [(one.scores, two.scores), (one.probabilities, two.probabilities)]
    if spec.task == "regression":
        pairs.append((one.predictions, two.predictions))
    else:
        different |= one.predictions != two.predictions
    for mine, theirs in pairs:
        if mine is None or theirs is None:
            continue
        if mine.shape != theirs.shape:
            different[:] = True
            continue
        bits = np.ascontiguousarray(mine).view(np.uint64) != np.ascontiguousarray(theirs).view(np.uint64)
        different |= bits.reshape(len(rows), -1).any(axis=1)
        largest = max(largest, float(np.abs(mine - theirs).max(initial=0.0)))
    return {
        "rows": len(rows),
        "identical": not different.any(),
        "different": int(different.sum()),
        "largest_difference": largest,
    }


if __name__ == "__main__":
    sys.exit(main())
