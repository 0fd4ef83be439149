"""Incidents in words, with their numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from agents.alerting.crossing import Crossing
from schemas.codec import iso
from schemas.metrics import lower_is_better

_KINDS = {
    "quality": "quality",
    "estimated-quality": "estimated quality",
    "calibration": "calibration",
    "data-drift": "distribution of inputs",
    "prediction-drift": "distribution of predictions",
    "label-drift": "distribution of labels",
    "data-quality": "data quality",
    "coverage": "label coverage",
    "label-delay": "label delay",
    "skew": "skew between training and serving",
    "new-segment": "new segment",
}


def number(value: float | None) -> str:
    """A number as people read it.

    Examples
    --------
    >>> number(0.67123), number(7.456), number(None)
    ('0.671', '7.46', 'unknown')
    """
    if value is None:
        return "unknown"
    if value == 0 or 0.001 <= abs(value) < 1:
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def when(at: datetime) -> str:
    """A time as people read it: the day alone at midnight UTC."""
    return iso(at).replace("T00:00:00Z", "")


def feature(subject: str) -> str:
    """``feature:temp`` → ``temp``."""
    return subject.removeprefix("feature:")


def _place(segment: str) -> str:
    return f" in {segment}" if segment else ""


def _verb(crossing: Crossing) -> str:
    if crossing.value is None or crossing.reference is None or crossing.value == crossing.reference:
        return "is"
    return "rose to" if crossing.value > crossing.reference else "fell to"


def what(crossing: Crossing) -> str:
    """What was measured, with its place."""
    name = feature(crossing.subject)
    if crossing.kind == "data-quality" and crossing.statistic:
        return f"the share of unusable values of {name}{_place(crossing.segment)}"
    if crossing.kind == "estimated-quality":
        return f"estimated {name}{_place(crossing.segment)}"
    return f"{name}{_place(crossing.segment)}"


def measured(crossing: Crossing) -> str:
    """One crossing with value, window, count, reference and threshold."""
    end = crossing.window_end.replace("T00:00:00Z", "")
    if crossing.kind == "new-segment":
        seen = f"{crossing.n:,} predictions in the window {crossing.window} to {end}"
        return f"Training never saw {crossing.subject}: {seen}"
    said = what(crossing)
    text = f"{said[0].upper()}{said[1:]}" if crossing.kind == "data-quality" else said
    text += f" {_verb(crossing)} {number(crossing.value)}"
    text += f" in the window {crossing.window} to {end} (n = {crossing.n:,})"
    if crossing.reference is not None:
        text += f"; the reference is {number(crossing.reference)}"
    if crossing.threshold is not None:
        side = "above" if _higher_is_worse(crossing) else "below"
        text += f", the alarm stands {side} {number(crossing.threshold)}"
    return text


def _higher_is_worse(crossing: Crossing) -> bool:
    if crossing.threshold is not None and crossing.reference is not None and crossing.threshold != crossing.reference:
        return crossing.threshold > crossing.reference
    return lower_is_better(crossing.subject) or crossing.kind not in {"quality", "estimated-quality", "coverage"}


def _moved(crossing: Crossing) -> str:
    who = {"prediction-drift": "the predictions", "label-drift": "the labels"}
    parts = [f"{crossing.statistic or 'distance'} {number(crossing.value)}"]
    if crossing.threshold is not None:
        parts.append(f"alarm above {number(crossing.threshold)}")
    if crossing.importance:
        parts.append(f"{crossing.importance:.0%} of the model's importance")
    return f"{who.get(crossing.kind, feature(crossing.subject))}{_place(crossing.segment)} ({', '.join(parts)})"


def causes(drifts: Sequence[Crossing], most: int = 5) -> str:
    """What moved at the same time, the most important first; empty where nothing did."""
    if not drifts:
        return ""
    shown = ", ".join(_moved(crossing) for crossing in drifts[:most])
    rest = f" and {len(drifts) - most} more" if len(drifts) > most else ""
    return f"At the same time moved: {shown}{rest}."


def title(kind: str, model: str, version: int, lead: Crossing) -> str:
    """One line: what, of which model, how much."""
    if kind in {"data-drift", "prediction-drift", "label-drift"}:
        return f"{model} v{version}: the {_KINDS[kind]} moved"
    if kind == "new-segment":
        return f"{model} v{version}: new segment {lead.subject}"
    if lead.value is None:
        return f"{model} v{version}: {_KINDS.get(kind, kind)}: {what(lead)}"
    reference = f" (reference {number(lead.reference)})" if lead.reference is not None else ""
    return f"{model} v{version}: {what(lead)} {_verb(lead)} {number(lead.value)}{reference}"


def explanation(kind: str, members: Sequence[Crossing], drifts: Sequence[Crossing], moved: float) -> str:
    """The paragraph of an alert: the crossings, worst place first, then the causes."""
    if kind in {"data-drift", "prediction-drift", "label-drift"}:
        share = f" Together they carry {moved:.0%} of the model's importance." if moved > 0 else ""
        return f"Moved away from the reference: {', '.join(_moved(c) for c in members[:8])}.{share}".strip()
    sentences = [measured(crossing) + "." for crossing in members[:4]]
    if len(members) > 4:
        sentences.append(f"{len(members) - 4} more crossings are in the evidence.")
    tail = causes(drifts)
    return " ".join([*sentences, tail]).strip()
