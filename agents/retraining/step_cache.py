"""Results of steps on disk, by the hash of everything they depend on. No pickle: tables are Parquet, estimators skops.

What fits none of these formats is not kept, and its step runs again. A file that is damaged counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from agents.config import Settings
    from schemas.specification import Specification

MAX_BYTES = 2_000_000_000
WORTH_S = 0.5


class Store(Protocol):
    """What `agents.retraining.pipeline.execute` needs of a cache."""

    def get(self, key: str) -> tuple[bool, Any]: ...

    def put(self, key: str, value: Any, seconds: float) -> None: ...


class NoCache:
    """Keeps nothing."""

    def get(self, key: str) -> tuple[bool, Any]:
        return False, None

    def put(self, key: str, value: Any, seconds: float) -> None:
        return None


def step_cache(settings: Settings, spec: Specification) -> Store:
    """Where a project's steps keep their results: nowhere where the rows are people's."""
    return NoCache() if spec.data.subject is not None else StepCache(settings.home.resolve() / "steps")


class StepCache:
    """A folder of results, bounded in size; the least recently used go first.

    Parameters
    ----------
    folder : Path
        Created at the first `put`.
    max_bytes : int
    worth_s : float
        What is computed faster is not kept: writing it and reading it back would take as long.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, worth_s: float = WORTH_S) -> None:
        self.folder = folder
        self.worth_s = worth_s
        self.max_bytes = max_bytes

    def get(self, key: str) -> tuple[bool, Any]:
        """Whether there is a value for `key`, and the value."""
        path = self.folder / key
        try:
            data = path.read_bytes()
            header, _, body = data.partition(b"\n")
            meta = json.loads(header)
            if hashlib.sha256(body).hexdigest() != meta["sha256"]:
                return False, None
            value = _load(meta["format"], body)
        except Exception:  # noqa: BLE001  whatever is wrong with the file: the step runs again
            return False, None
        with suppress(OSError):
            os.utime(path)
        return True, value

    def put(self, key: str, value: Any, seconds: float) -> None:
        """Keep `value`, which took `seconds`, where it has a format; a full disk is no reason to fail."""
        if seconds < self.worth_s:
            return
        encoded = _dump(value)
        if encoded is None:
            return
        kind, body = encoded
        header = json.dumps({"format": kind, "sha256": hashlib.sha256(body).hexdigest()}).encode()
        temporary = self.folder / f".{key}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(header + b"\n" + body)
            temporary.replace(self.folder / key)
            self._trim()
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _trim(self) -> None:
        files = [(path.stat(), path) for path in self.folder.iterdir() if not path.name.startswith(".")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda item: item[0].st_mtime):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _dump(value: Any) -> tuple[str, bytes] | None:
    import pandas as pd
    from sklearn.base import BaseEstimator

    try:
        if isinstance(value, pd.DataFrame):
            buffer = io.BytesIO()
            value.to_parquet(buffer, compression="zstd")
            # Kept only where it comes back the same: Parquet has no room for some types and for attributes.
            if value.attrs or not _load("parquet", buffer.getvalue()).equals(value):
                return None
            return "parquet", buffer.getvalue()
        if isinstance(value, BaseEstimator):
            from agents.skops_file import dump_model

            return "skops", dump_model(value)
        if value is None or isinstance(value, str | int | float | bool):
            return "json", json.dumps(value).encode()
    except Exception:  # noqa: BLE001  not a format of ours
        return None
    return None


def _load(kind: str, body: bytes) -> Any:
    if kind == "parquet":
        import pandas as pd

        return pd.read_parquet(io.BytesIO(body))
    if kind == "skops":
        import skops.io

        from agents.skops_file import ALLOWED_TYPES

        unknown = set(skops.io.get_untrusted_types(data=body))
        if not unknown <= ALLOWED_TYPES:
            raise ValueError("types that are not allowed")
        return skops.io.loads(body, trusted=sorted(unknown))
    return json.loads(body)
