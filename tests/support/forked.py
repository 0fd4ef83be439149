"""``python -m PROGRAM`` in a fork of the test's process, which has loaded long ago what the program needs seconds for.

For tests of what a program's answer is made into; that the program starts by itself is tested beside them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import IO


def run(
    command: list[str], *, input: bytes, capture_output: bool, env: dict[str, str], cwd: Path, check: bool
) -> subprocess.CompletedProcess[bytes]:
    """What `subprocess.run` would do with a module of ours as the program."""
    interpreter, flag, module = command
    assert (interpreter, flag) == (sys.executable, "-m")
    assert capture_output
    assert not check
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input)
        given.seek(0)
        child = os.fork()
        if child == 0:
            _become(module, given, out, err, env, cwd)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), out.read(), err.read())


def _become(module: str, given: IO[bytes], out: IO[bytes], err: IO[bytes], env: dict[str, str], cwd: Path) -> None:
    code = 70
    try:
        for number, file in enumerate((given, out, err)):
            os.dup2(file.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  until the end
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        code = importlib.import_module(module).main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
