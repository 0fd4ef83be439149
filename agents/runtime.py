"""What every agent process needs around its work: a stop signal, a sign of readiness, an end with its owner, a log."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from agents.config import Settings

AGENTS = ("registry", "serving", "monitoring", "archiving", "alerting", "retraining", "notifying", "gateway")
"""All agents, in the order in which they are listed."""

FIRST_WAVE = ("registry", "serving", "monitoring")
"""What the first prediction and the first metric wait for: started before the others, so that those do not take the
processor away from it."""

_OWNER_POLL_S = 0.25
_END_SECONDS = 20.0


def ready_file(settings: Settings, name: str) -> Path:
    """File that exists once the agent works; holds its process id."""
    return settings.home.resolve() / "run" / f"{name}.ready"


def mark_ready(settings: Settings, name: str) -> None:
    """Say that this process's agent works: consumers assigned, models loaded, socket bound. Safe to call again."""
    path = ready_file(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(str(os.getpid()), encoding="ascii")
    temporary.replace(path)


def clear_ready(settings: Settings, name: str) -> None:
    """Take the sign of readiness down."""
    ready_file(settings, name).unlink(missing_ok=True)


def is_ready(settings: Settings, name: str, pid: int | None = None) -> bool:
    """Whether the agent said it works; with `pid`, whether that very process said so."""
    try:
        said = int(ready_file(settings, name).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return False
    return pid is None or said == pid


def settle() -> None:
    """Keep what is there now from being looked through again by every collection of garbage.

    Notes
    -----
    What modules and history leave behind stays for good. A full collection walks all of it, for 50 to 150 ms, in the
    middle of whatever question comes then. What is not used any more still goes by itself, but for cycles.
    """
    gc.collect()
    gc.freeze()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def end_with_owner(owner: int, stop: threading.Event | None = None) -> None:
    """End this process when its parent process is no longer `owner`, however that ended.

    Parameters
    ----------
    owner : int
        Process id of the parent.
    stop : threading.Event, optional
        Set first, with 20 s to end in order; without it the process ends at once.

    Notes
    -----
    Polls the parent's id: unlike ``PR_SET_PDEATHSIG`` it does not depend on the thread that started us, and it works
    everywhere.
    """

    def watch() -> None:
        ended = threading.Event()
        while os.getppid() == owner:
            ended.wait(_OWNER_POLL_S)
        if stop is not None:
            stop.set()
            ended.wait(_END_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="owner-watch", daemon=True).start()


def configure_log(settings: Settings) -> None:
    """Log to standard error: time in UTC, level, logger, message."""
    import time

    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # Each start of theirs is several lines of no news.
    for name in ("alembic.runtime.plugins", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # At DEBUG these write whole requests: credentials' ids, signatures, contents.
    for name in ("botocore", "aiobotocore", "s3fs", "fsspec", "urllib3"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
