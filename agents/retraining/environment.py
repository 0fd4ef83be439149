"""The packages a model depends on, as they are installed here."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache
from importlib import metadata

PACKAGES = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "skops", "driftline")


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Version by package, with ``python``; packages that are not installed are left out."""
    return {"python": platform.python_version(), **installed(*PACKAGES)}


def installed(*names: str) -> dict[str, str]:
    """Version by package; packages that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment_hash() -> str:
    """SHA-256 over `environment`: part of every step's cache key."""
    return hashlib.sha256(json.dumps(environment(), sort_keys=True).encode()).hexdigest()
