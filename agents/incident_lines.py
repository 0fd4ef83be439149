"""What an incident's evidence says to people: causes, blast radius. For page, command line and messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.alerting.wording import number
from schemas.events import FLEET, Alert

SHOWN = 10


def facts(evidence: Mapping[str, Any]) -> list[str]:
    """Lines under an explanation: causes by rank and, of an incident of many models, whom it hits."""
    lines = []
    found = _list(evidence.get("causes"))
    if found:
        lines.append("causes: " + "; ".join(_cause(number, each) for number, each in enumerate(found[:5], start=1)))
    radius = evidence.get("blast_radius")
    if isinstance(radius, dict) and _count(radius.get("models")) > 1:
        lines.append(summary(radius))
        lines += [f"  {member(each)}" for each in _list(radius.get("affected"))[:SHOWN]]
        rest = _count(radius.get("models")) - min(len(_list(radius.get("affected"))), SHOWN)
        if rest > 0:
            lines.append(f"  and {rest:,} more models")
    return lines


def summary(radius: Mapping[str, Any]) -> str:
    """A blast radius in one line."""
    parts = [f"{_count(radius.get('models')):,} models ({_count(radius.get('active')):,} still affected)"]
    parts.append(f"{_count(radius.get('versions')):,} versions")
    parts.append(f"{_count(radius.get('events')):,} events in the windows that crossed")
    lost = _count(radius.get("quality_lost"))
    if lost:
        parts.append(f"quality fell in {lost:,}")
    segments = radius.get("segments")
    if isinstance(segments, dict) and segments:
        named = [f"{name} ({count})" for name, count in list(segments.items())[:5]]
        parts.append("segments " + ", ".join(named))
    return "blast radius: " + ", ".join(parts)


def member(entry: Mapping[str, Any]) -> str:
    """One model of a blast radius."""
    parts = [f"{entry.get('kind')}, {entry.get('severity')}"]
    if isinstance(value := entry.get("value"), int | float):
        reference = entry.get("reference")
        against = f" (reference {number(reference)})" if isinstance(reference, int | float) else ""
        parts.append(f"value {number(value)}{against}")
    if isinstance(share := entry.get("importance"), int | float):
        parts.append(f"{share:.0%} of its importance")
    if segments := _list(entry.get("segments")):
        parts.append("in " + ", ".join(map(str, segments[:3])))
    parts.append(f"n = {_count(entry.get('events')):,}")
    return f"{entry.get('model')} v{entry.get('version')}: {', '.join(parts)}"


def who(alert: Alert) -> str:
    """Of whom an alert tells."""
    return "many models" if alert.model == FLEET else f"{alert.model} v{alert.version}"


def _cause(rank: int, entry: object) -> str:
    if not isinstance(entry, dict):
        return f"{rank}. {entry}"
    parts = [f"{entry.get('statistic') or 'value'} {number(entry['value'])}"] if entry.get("value") is not None else []
    if isinstance(share := entry.get("importance"), int | float):
        parts.append(f"{share:.0%} of the importance")
    if segments := _list(entry.get("segments")):
        parts.append("in " + ", ".join(map(str, segments[:3])))
    return f"{rank}. {str(entry.get('subject')).removeprefix('feature:')} ({', '.join(parts)})"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
