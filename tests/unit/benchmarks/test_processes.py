"""Children under measurement."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.processes import Child, cores
from tests.support.wait import eventually

# The grandchild ends with its parent: nothing may go on spinning when the test is over.
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
SPIN = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"


def test_processor_time_and_memory_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", SPIN], tmp_path / "log") as child:
        # The child itself only waits: what is counted is its own child's.
        eventually(lambda: child.cpu_seconds() > 0.3, timeout=20)
        eventually(lambda: child.peak_rss_bytes > 5_000_000, timeout=20)


def test_a_child_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", "import sys; sys.exit('no such topic')"], tmp_path / "log") as child:
        child.process.wait(20)
        with pytest.raises(RuntimeError, match="ended with 1:\nno such topic"):
            child.check()


def test_leaving_ends_the_process(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log") as child:
        child.check()
    assert child.process.returncode == -15


def test_children_run_on_the_chosen_cores() -> None:
    before = os.sched_getaffinity(0)
    with cores(1) as chosen:
        assert os.sched_getaffinity(0) == set(chosen) == {min(before)}
    assert os.sched_getaffinity(0) == before
