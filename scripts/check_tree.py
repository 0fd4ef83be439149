"""What no linter checks: lock files without addresses, pinned with hashes; no file that should not be there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = (
    "pyproject.toml",
    "docker-compose.yml",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
)


def lock_problems(path: Path) -> list[str]:
    """Lines of a lock file that carry an address, or packages without version or hash."""
    text = path.read_text(encoding="utf-8")
    problems = [
        f"{path.name}: carries an address: {line}" for line in text.splitlines() if "://" in line or "--index" in line
    ]
    for entry in re.split(r"\n(?=\S)", text.strip()):
        if "==" not in entry or "--hash=sha256:" not in entry:
            problems.append(f"{path.name}: no version or no hash: {entry.splitlines()[0]}")
    return problems


def main() -> int:
    problems = [f"{name} is missing" for name in REQUIRED if not (ROOT / name).is_file()]
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        problems += lock_problems(path)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
