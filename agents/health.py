"""Health of one agent, for containers: ``python -m agents.health NAME`` ends with 0 when it works."""

from __future__ import annotations

import os
import sys

from agents.config import Settings, load_settings
from agents.runtime import ready_file


def works(settings: Settings, name: str) -> bool:
    """Whether the agent said it is ready and its process lives (on this machine, in this container)."""
    try:
        pid = int(ready_file(settings, name).read_text(encoding="ascii"))
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    if works(load_settings(), sys.argv[1]):
        sys.exit(0)
    print(f"{sys.argv[1]} is not ready", file=sys.stderr)
    sys.exit(1)
