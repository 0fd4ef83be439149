"""A supervisor of toy agents: the real supervisor's process with other children and no database.

``python -m tests.support.toy_system OWNER`` is the supervisor, ``… agent NAME OWNER`` one agent:
`steady` works until stopped, `stubborn` ignores SIGTERM, `broken` ends at once once the file `home/break` exists.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from agents.config import load_settings
from agents.runtime import end_with_owner, mark_ready, stop_on_signals
from agents.supervisor_process import SupervisorProcess, main

NAMES = ("steady", "broken")


class ToySystem(SupervisorProcess):
    """Two toy agents."""

    names = NAMES
    first_wave = ("steady",)

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "tests.support.toy_system", "agent", name, str(os.getpid())]

    def migrate(self) -> None:
        (self._home / "migrated").touch()


def agent(name: str, owner: int) -> int:
    settings = load_settings()
    stop = stop_on_signals()
    end_with_owner(owner, stop)
    if name == "broken" and (settings.home / "break").exists():
        print("broken on purpose", file=sys.stderr)
        return 3
    mark_ready(settings, name)
    if name == "steady" and (settings.home / "stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    stop.wait()
    (settings.home / f"{name}.stopped").touch()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "agent":
        sys.exit(agent(sys.argv[2], int(sys.argv[3])))
    sys.exit(main(int(sys.argv[1]), ToySystem))
