"""How the supervisor starts an agent: ``python -m agents.launch NAME OWNER``. Leaner than the whole command line."""

from __future__ import annotations

import os
import sys

from schemas.errors import DriftlineError


def main(name: str, owner: int) -> int:
    """Run the agent; its exit code."""
    from agents.bootstrap import run_agent
    from agents.config import load_settings

    try:
        run_agent(name, load_settings(), owner=owner)
    except DriftlineError as error:
        return error.exit_code
    except Exception:  # noqa: BLE001 - logged where it was raised; the exit code tells the supervisor
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of client libraries may linger; the agent has ended in order by now.
    os._exit(code)
