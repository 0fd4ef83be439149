"""A fresh virtual environment from a lock: the interpreter it names, and exactly its packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import agents
from agents.retraining.lock import Lock
from schemas.errors import ConfigurationError

TIMEOUT_S = 1800.0


def make(lock: Lock, folder: Path, python: Path | None = None) -> Path:
    """Make the environment in `folder`; returns its interpreter.

    Parameters
    ----------
    lock : Lock
    folder : Path
        Must not exist.
    python : Path, optional
        Interpreter to make it with; default: this one where its version fits, else one of that name on the path.

    Raises
    ------
    ConfigurationError
        No interpreter of the version is found, or pip cannot install what the lock names.

    Notes
    -----
    pip installs wheels only (no code of a package runs while it is installed), without resolving anything. Where the
    lock knows hashes of archives, pip checks them; what was installed is compared with the lock by the caller.
    """
    interpreter = python or _interpreter(lock)
    _run([str(interpreter), "-m", "venv", str(folder)], "the virtual environment cannot be made")
    made = folder / "bin" / "python"
    pinned = [one for one in lock.packages if one.archives]
    others = [one for one in lock.packages if not one.archives]
    for number, packages in enumerate((pinned, others)):
        if not packages:
            continue
        listed = folder / f"lock-{number}.txt"
        listed.write_text(
            "".join(
                " \\\n    ".join([f"{one.name}=={one.version}", *(f"--hash=sha256:{sha}" for sha in one.archives)])
                + "\n"
                for one in packages
            ),
            encoding="utf-8",
        )
        command = [str(made), "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        _run([*command, "--disable-pip-version-check", "-r", str(listed)], "pip cannot install the recorded packages")
    return made


def program(folder: Path) -> dict[str, str]:
    """Environment variables with which another interpreter finds this program, and nothing else of here.

    Notes
    -----
    `folder` is filled with links: the folder that holds this program may hold all other packages too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(agents.__file__).resolve().parents[1]
    for name in ("agents", "streams", "schemas"):
        (folder / name).symlink_to(home / name)
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR", "TZ"}}
    return {**kept, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def _interpreter(lock: Lock) -> Path:
    if sys.version.split()[0] == lock.python:
        return Path(sys.executable)
    short = lock.python.rpartition(".")[0]
    found = shutil.which(f"python{short}")
    said = ""
    if found is not None:
        asked = subprocess.run([found, "-V"], capture_output=True, text=True, check=False, timeout=30)
        said = asked.stdout.strip().rpartition(" ")[2]
        if said == lock.python:
            return Path(found)
    raise ConfigurationError(
        f"the version was trained with Python {lock.python}; here are {sys.version.split()[0]}"
        + (f" and {said}" if said else ""),
        where="driftline rebuild",
        remedy="install it and name it with --python",
    )


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{what}: {error}", where="driftline rebuild") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason was given")
        raise ConfigurationError(
            f"{what}: {said}",
            where="driftline rebuild",
            remedy="see that pip reaches an index or folder that has these versions (PIP_INDEX_URL, PIP_FIND_LINKS)",
        )
