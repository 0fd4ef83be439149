"""What git knows of a project's folder: the commit, and what differs from it."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from agents.artifacts import ArtifactStore

KIND = "diff"
MAX_DIFF_BYTES = 5_000_000


def git_state(artifacts: ArtifactStore, directory: Path) -> dict[str, Any]:
    """Commit of the folder's repository; outside of one ``commit`` is None.

    Returns
    -------
    dict
        ``commit``, with ``-dirty`` where the folder differs from it; then ``diff``, the SHA-256 of the difference, new
        files included (kind ``diff``; left out where it is larger than 5 MB: the code itself is kept anyway).
    """
    root = directory.resolve()
    stats = [path.stat() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    commit, diff = _state(root, sum(stat.st_size for stat in stats), max((s.st_mtime_ns for s in stats), default=0))
    state: dict[str, Any] = {"commit": commit}
    if diff is not None and len(diff) <= MAX_DIFF_BYTES:
        state["diff"] = artifacts.put(diff, KIND)
    return state


@lru_cache(maxsize=4)
def _state(directory: Path, _size: int, _changed_ns: int) -> tuple[str | None, bytes | None]:
    """Commit and difference; asked once for the thousands of models of one folder."""
    try:
        head = _git(directory, "rev-parse", "HEAD").decode().strip()
        changed = _git(directory, "status", "--porcelain", "--untracked-files=all", ".")
        if not changed.strip():
            return head, None
        diff = _git(directory, "diff", "--binary", "HEAD", "--", ".")
        new = _git(directory, "ls-files", "--others", "--exclude-standard", "-z", ".").split(b"\0")
        for name in filter(None, new):
            diff += _git(directory, "diff", "--binary", "--no-index", "--", "/dev/null", name.decode(), accepted=(0, 1))
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None, None
    return f"{head}-dirty", diff


def _git(directory: Path, *arguments: str, accepted: tuple[int, ...] = (0,)) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, timeout=10, check=False)
    if done.returncode not in accepted:
        raise subprocess.CalledProcessError(done.returncode, arguments)
    return done.stdout
