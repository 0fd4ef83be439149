"""Incidents in words, with their numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from agents.alerting.causes import Cause
from agents.alerting.crossing import DRIFT_KINDS, Crossing
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


_LOST = {
    "unusable_rate": "the share of unusable values of {}",
    "missing_rate": "the share of missing values of {}",
    "invalid_rate": "the share of values of the wrong type of {}",
    "type_rate": "the share of values of the wrong type of {}",
    "out_of_range_rate": "the share of values of {} outside the range that training saw",
    "new_rate": "the share of categories of {} that training never saw",
    "vanished_share": "the share of a category of {} that is gone",
    "stuck_share": "the share of values of {} that stand still",
    "scale_shift": "the distance of {} from training, in standard deviations,",
    "duplicates": "the share of duplicates",
    "predictions": "the number of predictions in a pane",
    "schema": "the share of records that do not fit the schema",
}
"""What data quality, and drift that is no distance, measure: by statistic."""
_MEASURES = {
    "coverage": "label coverage",
    "label-delay": "the label delay",
    "label_delay": "the label delay",
    "label_delay_p50_s": "the median label delay",
    "label_delay_p90_s": "the ninth decile of the label delay",
    "calibration_error": "the calibration error",
}


def what(crossing: Crossing) -> str:
    """What was measured, with its place."""
    name, place = feature(crossing.subject), _place(crossing.segment)
    if crossing.kind in {"data-quality", "data-drift"} and crossing.statistic in _LOST:
        return _LOST[crossing.statistic].format(name) + place
    if crossing.kind == "data-quality" and crossing.statistic:
        return f"{crossing.statistic.replace('_', ' ')} of {name}{place}"
    if crossing.kind == "estimated-quality":
        return f"{name} as estimated before the labels{place}"
    if crossing.kind == "skew":
        said = f" ({crossing.statistic.replace('_', ' ')})" if crossing.statistic else ""
        return f"the difference of {name} between training and serving{said}{place}"
    return f"{_MEASURES.get(name, name)}{place}"


def measured(crossing: Crossing) -> str:
    """One crossing with value, window, count, reference and threshold."""
    end = crossing.window_end.replace("T00:00:00Z", "")
    if crossing.kind == "new-segment":
        seen = f"{crossing.n:,} predictions in the window {crossing.window} to {end}"
        return f"Training never saw {crossing.subject}: {seen}"
    said = what(crossing)
    text = f"{said[0].upper()}{said[1:]}" if crossing.kind not in _AS_WRITTEN else said
    text += f" {_verb(crossing)} {amount(crossing, crossing.value)}"
    text += f" in the window {crossing.window} to {end} (n = {crossing.n:,}{_detail(crossing)})"
    if crossing.reference is not None:
        text += f"; {_REFERENCES.get(crossing.kind, 'the reference')} is {amount(crossing, crossing.reference)}"
    if crossing.threshold is not None:
        side = "above" if _higher_is_worse(crossing) else "below"
        text += f", the alarm stands {side} {amount(crossing, crossing.threshold)}"
    return text


_AS_WRITTEN = frozenset({"quality", "calibration", "estimated-quality"})
"""Kinds whose subject is a name (``roc_auc``), which starts no sentence in capitals."""
_REFERENCES = {"coverage": "the usual", "label-delay": "the usual"}


def amount(crossing: Crossing, value: float | None) -> str:
    """A value of a crossing, with its unit where it has one."""
    if value is not None and crossing.kind == "label-delay":
        return delay(value * 1000)
    if value is not None and crossing.statistic == "predictions":
        return f"{value:,.0f}"
    return number(value)


def delay(milliseconds: float) -> str:
    """A label delay in the largest unit that fits.

    Examples
    --------
    >>> delay(5_400_000), delay(90_000), delay(259_200_000)
    ('1.5 h', '1.5 min', '3 d')
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if milliseconds >= size:
            return f"{milliseconds / size:.3g} {unit}"
    return f"{milliseconds / 1000:.3g} s"


def _detail(crossing: Crossing) -> str:
    """Counts behind a share, which a person can divide."""
    notes = crossing.notes

    def count(name: str) -> str:
        return f"{float(notes[name]):,.0f}"

    if crossing.kind == "data-quality" and "missing" in notes and "invalid" in notes:
        return f", {count('missing')} missing and {count('invalid')} of the wrong type"
    if crossing.place and "rest" in notes:
        return f"; from everywhere else came {float(notes['rest']):.0%} of the usual"
    if crossing.kind == "coverage" and "labelled" in notes and "predicted" in notes:
        return f": {count('labelled')} labelled of {count('predicted')}"
    if crossing.kind == "estimated-quality" and "low" in notes and "high" in notes:
        trust = f", trust {number(float(notes['trust']))}" if "trust" in notes else ""
        return f", between {number(float(notes['low']))} and {number(float(notes['high']))}{trust}"
    return ""


def _higher_is_worse(crossing: Crossing) -> bool:
    if crossing.threshold is not None and crossing.reference is not None and crossing.threshold != crossing.reference:
        return crossing.threshold > crossing.reference
    return lower_is_better(crossing.subject) or crossing.kind not in {"quality", "estimated-quality", "coverage"}


def moved(cause: Cause) -> str:
    """What moved, how far, how much it matters, where, and whether a season was asked."""
    crossing = cause.crossing
    who = {"prediction-drift": "the predictions", "label-drift": "the labels"}
    fault = crossing.kind not in DRIFT_KINDS
    name = what(crossing) if fault else f"{who.get(crossing.kind, feature(crossing.subject))}{_place(crossing.segment)}"
    statistic = "" if fault else f"{crossing.statistic or 'distance'} "
    parts = [f"{statistic}{amount(crossing, crossing.value)}"]
    if crossing.threshold is not None:
        side = "below" if crossing.place else "above"
        parts.append(f"alarm {side} {amount(crossing, crossing.threshold)}")
    if crossing.importance:
        parts.append(f"{crossing.importance:.0%} of the model's importance")
    others = [segment for segment in cause.segments if segment != crossing.segment]
    if others:
        parts.append(f"also in {', '.join(others[:3])}{' …' if len(others) > 3 else ''}")
    if "season" in crossing.notes:
        parts.append(f"compared with {crossing.notes['season']}")
    return f"{name} ({', '.join(parts)})"


def causes(found: Sequence[Cause], most: int = 5) -> str:
    """What moved at the same time, the likeliest cause first; empty where nothing did."""
    if not found:
        return ""
    shown = ", ".join(moved(cause) for cause in found[:most])
    rest = f" and {len(found) - most} more" if len(found) > most else ""
    return f"At the same time moved: {shown}{rest}."


def calendar(seasonal: Sequence[Crossing], most: int = 3) -> str:
    """What the calendar explains, so that nobody takes it for the cause; empty where nothing is."""
    by_subject = {crossing.subject: crossing for crossing in reversed(seasonal)}
    if not by_subject:
        return ""
    shown = [c for c in seasonal if by_subject.get(c.subject) is c][:most]
    said = ", ".join(
        f"{feature(c.subject)} ({c.statistic or 'distance'} {number(c.value)} against the whole reference, "
        f"{number(_note(c, 'season_psi'))} against {c.notes.get('season', 'its season')})"
        for c in shown
    )
    return f"As every year at this time: {said}."


def _note(crossing: Crossing, name: str) -> float | None:
    value = crossing.notes.get(name)
    return value if isinstance(value, int | float) else None


def title(kind: str, model: str, version: int, lead: Crossing) -> str:
    """One line: what, of which model, how much."""
    if kind in {"data-drift", "prediction-drift", "label-drift"}:
        return f"{model} v{version}: the {_KINDS[kind]} moved"
    if kind == "new-segment":
        return f"{model} v{version}: new segment {lead.subject}"
    if lead.value is None:
        return f"{model} v{version}: {_KINDS.get(kind, kind)}: {what(lead)}"
    reference = f" (reference {amount(lead, lead.reference)})" if lead.reference is not None else ""
    return f"{model} v{version}: {what(lead)} {_verb(lead)} {amount(lead, lead.value)}{reference}"


def explanation(
    kind: str, members: Sequence[Crossing], found: Sequence[Cause], share: float, seasonal: Sequence[Crossing] = ()
) -> str:
    """The paragraph of an alert: the crossings, worst place first, then the causes.

    Parameters
    ----------
    kind : str
        Of the incident.
    members : sequence of Crossing
        Worst first.
    found : sequence of Cause
        Ranked.
    share : float
        Of the model's importance that moved, 0–1.
    seasonal : sequence of Crossing
        What moved with the calendar.
    """
    measurable = [crossing for crossing in members if crossing.kind not in DRIFT_KINDS]
    if kind in DRIFT_KINDS or not measurable:
        carried = f" Together they carry {share:.0%} of the model's importance." if share > 0 else ""
        return (
            f"Moved away from the reference: {', '.join(moved(c) for c in found[:8])}.{carried}{_short(found)}".strip()
        )
    sentences = [measured(crossing) + "." for crossing in measurable[:4]]
    if len(measurable) > 4:
        sentences.append(f"{len(measurable) - 4} more crossings are in the evidence.")
    told = {crossing.key for crossing in measurable[:4]}
    beside = [cause for cause in found if cause.crossing.key not in told]
    return " ".join(part for part in (*sentences, causes(beside), calendar(seasonal)) if part).strip()


def _short(found: Sequence[Cause]) -> str:
    """What to think of where the reference is too short to know the seasons."""
    days = next((d for c in found if (d := _note(c.crossing, "reference_days")) is not None), None)
    if days is None:
        return ""
    return f" The reference covers {days:.0f} days: whether this is the season cannot be told from it."
