"""Loading versions beside the traffic: a thread checks, loads and warms them, serving picks up what is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from agents.serving.model import ServedModel
from schemas.errors import DriftlineError
from schemas.events import VersionState

log = logging.getLogger("driftline.serving")

_LONGEST = 200

Key = tuple[str, int]
"""(model, version)."""
Loader = Callable[[str, VersionState], ServedModel]


class Stage:
    """Versions that are loaded, loading or refused.

    Parameters
    ----------
    loader : callable
        (model, version) to a loaded model; whatever it raises refuses the version.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        # One at a time: loading competes with answering for the processor.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="staging")
        self._loads: dict[Key, Future[ServedModel]] = {}

    def want(self, model: str, version: VersionState) -> None:
        """Start loading a version unless it is loaded, loading or refused."""
        key = (model, version.version)
        if key not in self._loads:
            self._loads[key] = self._pool.submit(self._loader, model, version)

    def keep(self, keys: Iterable[Key]) -> None:
        """Let go of every loaded version that is not among `keys`; refusals are remembered."""
        kept = set(keys)
        for key in [key for key, load in self._loads.items() if load.done() and key not in kept]:
            if self.refused(key) is None:
                del self._loads[key]

    def ready(self, key: Key) -> ServedModel | None:
        """The loaded version, if it is."""
        load = self._loads.get(key)
        return load.result() if load is not None and load.done() and load.exception() is None else None

    def refused(self, key: Key) -> str | None:
        """Why a version was refused, if it was."""
        load = self._loads.get(key)
        error = load.exception() if load is not None and load.done() else None
        if error is None:
            return None
        return first_line(error)

    def settled(self, key: Key) -> bool:
        """Whether a version is loaded or refused."""
        load = self._loads.get(key)
        return load is not None and load.done()

    def wait(self, key: Key, timeout_s: float) -> ServedModel | None:
        """Wait for a version that was wanted; None when it is refused (or not loaded in time)."""
        load = self._loads[key]
        try:
            return load.result(timeout_s)
        except Exception as error:  # noqa: BLE001  whatever a model's file makes the loader raise refuses that version
            log.warning("%s version %d is not ready: %s", *key, error or type(error).__name__)
            return None

    def close(self) -> None:
        """Wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def first_line(error: BaseException) -> str:
    """What people read of an error in an event: a model's own can be a page long.

    Examples
    --------
    >>> first_line(ValueError("Input X contains NaN.\\nSee https://…"))
    'ValueError: Input X contains NaN.'
    """
    lines = (error.what if isinstance(error, DriftlineError) else str(error)).strip().splitlines()
    line = lines[0].strip() if lines else ""
    said = line if isinstance(error, DriftlineError) else f"{type(error).__name__}: {line}"
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"
