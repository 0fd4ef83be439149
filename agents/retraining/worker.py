"""The process that executes runs: loads the libraries once, then forks a child for each run.

Loading pandas and scikit-learn takes as long as training a small model. This process does it once and stays small; the
child has its own memory, ends with its run, and takes nothing else along when it is killed.

It reads one JSON document a line from standard input (``{"run_id", "owner"}`` starts a run, ``{"kill": true}`` kills
it) and answers ``{"run_id", "code"}`` on standard output when the child has ended. When standard input ends, so does
it: no run outlives its agent.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import select
import signal
import sys
import traceback
from typing import Any

from agents.config import Settings, load_settings
from agents.runtime import configure_log, end_with_owner, settle

LOADED = (
    "agents.retraining.execution",
    "agents.retraining.step_cache",
    "streams.reference",
    "streams.metrics.levels",
    "datasketches",
    "duckdb",
    "pandas",
    "pyarrow.parquet",
    "skops.io",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "threadpoolctl",
)
LOST = 75
FAILED = 70
_POLL_S = 0.05
log = logging.getLogger("driftline.retraining")


def main() -> int:
    """Serve runs until standard input ends."""
    settings = load_settings()
    configure_log(settings)
    for name in LOADED:
        importlib.import_module(name)
    # What is loaded now is never collected, so that children share its memory.
    settle()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what steps print goes to the log, not among the answers
    _serve(settings, answers)
    return 0


def _serve(settings: Settings, answers: Any) -> None:
    child: int | None = None
    run_id = ""
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], _POLL_S if child is not None else None)
        if ready:
            received = os.read(0, 65536)
            if not received:
                _kill(child)
                return
            buffer += received
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                task = json.loads(line)
                if task.get("kill"):
                    _kill(child)
                elif child is None:
                    run_id = task["run_id"]
                    child = _fork(settings, run_id, task["owner"])
        if child is not None:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = None
                answers.write(json.dumps({"run_id": run_id, "code": os.waitstatus_to_exitcode(status)}) + "\n")
                answers.flush()


def _kill(child: int | None) -> None:
    if child is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _fork(settings: Settings, run_id: str, owner: str) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        end_with_owner(parent)
        code = _execute(settings, run_id, owner)
    except BaseException:  # noqa: BLE001  the child must never return into the parent's loop
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)


def _execute(settings: Settings, run_id: str, owner: str) -> int:
    from agents.retraining.execution import execute_run
    from schemas.errors import ConflictError, DriftlineError

    try:
        execute_run(settings, run_id, owner)
    except ConflictError as error:
        log.warning("run %s: %s", run_id, error)
        return LOST
    except DriftlineError as error:
        log.warning("run %s: %s", run_id, error)
        return FAILED
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Without the interpreter's clean-up: native libraries complain in the log when they are taken down.
    os._exit(code)
