"""Failpoints end the process at the n-th passage of a step and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from schemas.errors import ConfigurationError
from streams.kafka.failpoints import EXIT_CODE, NAMES, parse

PROGRAM = """
from streams.kafka.failpoints import failpoint
for _ in range(3):
    failpoint("after-produce")
    failpoint("after-flush")
    print("passed", flush=True)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ("", 0)), ("after-commit", ("after-commit", 1)), ("after-flush:7", ("after-flush", 7))],
)
def test_parses(text: str, expected: tuple[str, int]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["after-lunch", "after-commit:0", "after-commit:x", "after-commit:-1"])
def test_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=NAMES[0]):
        parse(text)


@pytest.mark.parametrize(("value", "passed"), [("after-flush:2", 1), ("after-produce:3", 2), ("", 3)])
def test_ends_the_process_there(value: str, passed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "DRIFTLINE_FAILPOINT": value},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.count("passed") == passed
    assert done.returncode == (EXIT_CODE if value else 0), done.stderr
