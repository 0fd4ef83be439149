"""Failpoints: end the process at a named step, so that chaos tests can crash it exactly there.

``DRIFTLINE_FAILPOINT=after-produce:3`` ends the process without any clean-up at the third passage of that step. Unset,
which is the rule, a passage costs one comparison.
"""

from __future__ import annotations

import os

from schemas.errors import ConfigurationError

VARIABLE = "DRIFTLINE_FAILPOINT"
EXIT_CODE = 70
NAMES = (
    *("after-process", "after-produce", "after-flush", "after-offsets", "after-commit", "after-checkpoint"),
    *("archive-written", "archive-published", "archive-recorded", "archive-committed", "archive-merged"),
    *("subject-key-deleted", "subject-erased"),
)


def parse(text: str) -> tuple[str, int]:
    """Name and passage of ``name[:n]``; ``("", 0)`` where nothing is set.

    Raises
    ------
    ConfigurationError
        Naming the accepted names.
    """
    if not text:
        return "", 0
    name, _, count = text.partition(":")
    if name not in NAMES or not (count == "" or (count.isdecimal() and int(count) > 0)):
        raise ConfigurationError(
            f"{text!r} is no failpoint", where=VARIABLE, remedy=f"write name[:n] with one of: {', '.join(NAMES)}"
        )
    return name, int(count or 1)


class _Armed:
    """The one failpoint of this process."""

    def __init__(self) -> None:
        self.name, self.left = parse(os.environ.get(VARIABLE, ""))


_armed: _Armed | None = None


def failpoint(name: str) -> None:
    """Pass the step `name`; end the process here if the failpoint says so."""
    global _armed  # noqa: PLW0603 - read once per process, at the first passage
    if _armed is None:
        _armed = _Armed()
    if _armed.name != name:
        return
    _armed.left -= 1
    if _armed.left == 0:
        os._exit(EXIT_CODE)
