"""How the page writes numbers, times and segments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.durations import parse_count

DASH = "–"
MOST_FACTS = 8


def figure(value: Any) -> str:
    """A measured number in about four digits.

    Examples
    --------
    >>> figure(0.70912), figure(12.3456), figure(None)
    ('0.7091', '12.35', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return DASH if value is None or isinstance(value, float) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.2f}" if size >= 10 else f"{value:.4f}"


def count(value: int | None) -> str:
    """A count with separators."""
    return DASH if value is None else f"{value:,}"


def moment(ms: int | None) -> str:
    """Event time to the minute."""
    return DASH if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def day(at: datetime | None) -> str:
    """A date."""
    return DASH if at is None else at.astimezone(UTC).strftime("%Y-%m-%d")


def segment(value: Mapping[str, str] | None) -> str:
    """A segment in words."""
    return ", ".join(f"{name} = {held}" for name, held in value.items()) if value else "overall"


def window(name: str) -> str:
    """A window in words.

    Examples
    --------
    >>> window("7d"), window("7d/7d"), window("7d/1d"), window("1000n")
    ('last 7d', 'whole 7d', 'last 7d, every 1d', 'newest 1,000')
    """
    counted = parse_count(name)
    if counted is not None:
        return f"newest {counted:,}"
    length, _, rest = name.partition("/")
    step = rest.partition("+")[0]
    if not step:
        return f"last {length}"
    return f"whole {length}" if step == length else f"last {length}, every {step}"


def facts(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Evidence as name and text: plain values only, the first few."""
    shown = []
    for name, value in evidence.items():
        if isinstance(value, str | int | float | bool):
            shown.append((name.replace("_", " "), value if isinstance(value, str) else figure(value)))
        elif isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
            texts = [item if isinstance(item, str) else figure(item) for item in value[:6]]
            shown.append((name.replace("_", " "), ", ".join(texts) + (" …" if len(value) > 6 else "")))
    return shown[:MOST_FACTS]


FILTERS = {
    "figure": figure,
    "count": count,
    "moment": moment,
    "day": day,
    "segment": segment,
    "window": window,
    "facts": facts,
}
