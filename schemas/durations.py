"""Durations and rates as people write them: ``15m``, ``3d``, ``1/30d``; count windows ``1000n``."""

from __future__ import annotations

import re

from schemas.errors import SpecificationError

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"^(\d+)(ms|s|m|h|d|w)$")
_RATE = re.compile(r"^(\d+(?:\.\d+)?)/(\d+(?:ms|s|m|h|d|w))$")
_COUNT = re.compile(r"^(\d+)n$")


def parse_duration(text: str, *, where: str = "") -> int:
    """Milliseconds of ``3d``, ``12h``, ``15m`` …

    Raises
    ------
    SpecificationError
        Naming `where` and the accepted form.

    Examples
    --------
    >>> parse_duration("3d")
    259200000
    """
    match = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise SpecificationError(
            f"{text!r} is not a duration",
            where=where,
            remedy="write a positive whole number and a unit: " + ", ".join(f"1{unit}" for unit in UNITS_MS),
        )
    return int(match[1]) * UNITS_MS[match[2]]


def format_duration(ms: int) -> str:
    """The shortest exact form of a duration.

    Examples
    --------
    >>> format_duration(259200000)
    '3d'
    """
    for unit in ("d", "h", "m", "s"):
        if ms and ms % UNITS_MS[unit] == 0:
            return f"{ms // UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


def parse_rate(text: str, *, where: str = "") -> float:
    """Events per millisecond of ``1/30d``.

    Raises
    ------
    SpecificationError
        Naming `where` and the accepted form.
    """
    match = _RATE.match(text.strip()) if isinstance(text, str) else None
    if match is None or float(match[1]) <= 0:
        raise SpecificationError(
            f"{text!r} is not a rate", where=where, remedy='write count/duration, such as "1/30d" (one in thirty days)'
        )
    return float(match[1]) / parse_duration(match[2], where=where)


def parse_count(text: str) -> int | None:
    """Number of events of a count window (``1000n``); None where `text` is not one."""
    match = _COUNT.match(text.strip())
    return int(match[1]) if match and int(match[1]) > 0 else None
