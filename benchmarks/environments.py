"""Python environments of their own for peers, made once per list of requirements, below the cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import UnavailableError

PROGRAMS = Path(__file__).parent / "peers" / "programs"
_INSTALL_S = 1_800
_SILENT = {
    # No peer tells its makers anything from here.
    "DO_NOT_TRACK": "1",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    # alibi-detect brings it along.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


def python_of(cache: Path, name: str) -> str:
    """Interpreter of the environment of ``NAME-requirements.txt``, made where it is not there.

    Raises
    ------
    UnavailableError
        The packages cannot be had.
    """
    from benchmarks.peers.base import fingerprint

    requirements = PROGRAMS / f"{name}-requirements.txt"
    tag = f"{sys.version_info.major}{sys.version_info.minor}-{fingerprint(requirements)}"
    home = (cache / f"{name}-{tag}").resolve()
    python = str(home / "bin" / "python")
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(requirements)],
        ):
            run(command, timeout_s=_INSTALL_S)
        (home / "complete").touch()
    return python


def is_there(cache: Path, name: str) -> bool:
    """Whether the environment has been made."""
    from benchmarks.peers.base import fingerprint

    tag = f"{sys.version_info.major}{sys.version_info.minor}-{fingerprint(PROGRAMS / f'{name}-requirements.txt')}"
    return (cache / f"{name}-{tag}" / "complete").exists()


def version_in(python: str, distribution: str) -> str:
    """Version of a distribution in another environment.

    Raises
    ------
    UnavailableError
    """
    return run(
        [python, "-c", f"from importlib.metadata import version; print(version({distribution!r}))"], timeout_s=60
    )


def environment() -> dict[str, str]:
    """Environment variables of a peer's process: ours without what would leak in, telemetry off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DRIFTLINE_"))}
    return kept | _SILENT


def run(command: Sequence[str], *, timeout_s: float) -> str:
    """Standard output of a command that has to succeed.

    Raises
    ------
    UnavailableError
        With the end of what it said.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment()
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{' '.join(command[:4])} … did not finish within {timeout_s:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise UnavailableError(f"{' '.join(command[1:4])} … failed: {' '.join(said)[:400]}")
    return done.stdout.strip()
