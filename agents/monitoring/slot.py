"""A worker's slot on this machine: held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from agents.config import Settings
from schemas.errors import ConfigurationError


@contextmanager
def held_slot(settings: Settings, name: str) -> Iterator[None]:
    """Hold the slot of an agent as long as the block runs; a killed process lets go of it.

    Notes
    -----
    The slot names the transactional ids and the state folder. Without this check a second worker of the same slot would
    fence the first, which is healthy, and its supervisor would do the same in return. It sees workers of the same home
    only: over several machines the broker's fencing is what is left, so each needs slots of its own.

    Raises
    ------
    ConfigurationError
        Another process has it.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    path = settings.state_dir / f"{name}-{settings.slot}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"slot {settings.slot!r} of {name} is taken by another process",
                where=str(path),
                remedy="give every worker a slot of its own: DRIFTLINE_SLOT=1 driftline agent " + name,
            ) from error
        yield
    finally:
        os.close(descriptor)
