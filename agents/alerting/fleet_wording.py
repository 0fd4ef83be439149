"""Incidents of many models in words, with their numbers and their blast radius. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from agents.alerting.crossing import DRIFT_KINDS, FEATURE, QUALITY_KINDS, rank
from agents.alerting.standing import Standing, Strand
from agents.alerting.wording import number, when
from schemas.codec import iso, utc
from schemas.events import Kind, Status

NAMED: Final = 200
"""Models named in the evidence; all are counted."""
DETAILED: Final = 50
"""Models told with version, segments and numbers."""
SENTENCED: Final = 5
"""Models named in the explanation."""

_SAYS: dict[str, tuple[str, str]] = {
    "data-drift": ("moved", "moved away from the reference"),
    "data-quality": ("is unusable", "has unusable values"),
    "skew": ("differs from training", "is not what training saw"),
}
_THEMES: dict[str, tuple[str, str]] = {
    "quality": ("quality fell", "Quality fell"),
    "labels": ("labels stay away", "Labels come late or stay away"),
    "prediction": ("predictions moved", "The predictions moved away from the reference"),
    "data-quality:volume": (
        "predictions stay away",
        "Hardly any predictions come, or none from some segments,",
    ),
    "label": ("labels moved", "The labels moved away from the reference"),
}


class Told(NamedTuple):
    """An alert's words."""

    title: str
    explanation: str
    evidence: dict[str, Any]


def day(at_ms: int) -> str:
    """An event time as people read it."""
    return when(utc(at_ms))


def kind_of(theme: str, members: Sequence[Standing]) -> Kind:
    """Kind of a fleet incident: what most of its models saw of the theme."""
    seen = Counter(strand.kind for s in members if (strand := s.strand(theme)) is not None)
    return min(seen, key=lambda kind: (-seen[kind], kind))


def told(theme: str, kind: Kind, members: Sequence[Standing], *, status: Status, known: int) -> Told:
    """Title, explanation and evidence.

    Parameters
    ----------
    theme : str
        What the models have in common.
    kind : str
        Of the incident.
    members : sequence of Standing
        All incidents that are or were part of it, by age.
    status : {"opened", "updated", "closed"}
    known : int
        Models that alerting knows.
    """
    by_model = _by_model(members)
    order = sorted(by_model, key=lambda model: _hit(theme, by_model[model]))
    active = [model for model in order if any(s.until_ms is None for s in by_model[model])]
    subject = theme.removeprefix(FEATURE)
    short, long = _words(theme, kind, subject)
    evidence = _evidence(theme, members, by_model, order, active=len(active), known=known)
    title = f"{len(order)} models: {short}"
    since = day(members[0].since_ms)
    parts = [f"{long} in {len(order)} of {known} models since {since}{_range(theme, kind, members)}."]
    parts.append(_matters(theme, members, by_model))
    parts.append(f"Most affected: {'; '.join(_one(theme, model, by_model[model]) for model in order[:SENTENCED])}.")
    if also := evidence["also_moved"]:
        said = ", ".join(f"{name.removeprefix(FEATURE)} ({count})" for name, count in list(also.items())[:5])
        parts.append(f"The same models also show: {said}.")
    if status == "closed":
        parts.append(f"It is over in all {len(order)} models.")
    elif len(active) < len(order):
        parts.append(f"{len(active)} of them {'is' if len(active) == 1 else 'are'} still affected.")
    return Told(title, " ".join(part for part in parts if part), evidence)


def took(needed: int, expected: float, opened_ms: int) -> str:
    """Why this is one incident."""
    chance = number(expected) if expected >= 0.001 else "0"
    return (
        f"One incident since {day(opened_ms)}, when the {_ordinal(needed)} model within a day showed it; "
        f"by chance about {chance} would."
    )


# ------------------------------------------------------------------------------------------------------ parts


def _words(theme: str, kind: Kind, subject: str) -> tuple[str, str]:
    if theme.startswith(FEATURE):
        short, long = _SAYS.get(kind, _SAYS["data-drift"])
        return f"{subject} {short}", f"The feature {subject} {long}"
    if theme in _THEMES:
        return _THEMES[theme]
    name = subject.partition(":")[2] or subject
    what = kind.replace("-", " ")
    return f"{what}: {name}", f"{what.capitalize()} ({name}) was found"


def _range(theme: str, kind: Kind, members: Sequence[Standing]) -> str:
    if theme == "quality":
        return ""  # metrics of different models have no common scale
    strands = [t for s in members if (t := s.strand(theme)) is not None and t.value is not None and t.kind == kind]
    values = sorted(t.value for t in strands if t.value is not None)
    if not values:
        return ""
    statistic = strands[0].statistic.replace("_", " ") or ("distance" if kind in DRIFT_KINDS else "value")
    return f" ({statistic} {number(values[0])} to {number(values[-1])}, median {number(median(values))})"


def _matters(theme: str, members: Sequence[Standing], by_model: dict[str, list[Standing]]) -> str:
    said = []
    shares = [t.importance for s in members if (t := s.strand(theme)) is not None and t.importance]
    if shares:
        low, high = min(shares), max(shares)
        spread = f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
        said.append(f"It carries {spread} of their importance")
    lost = _lost(by_model)
    if lost and theme != "quality":
        said.append(f"quality fell in {lost} of them" if said else f"Quality fell in {lost} of them")
    return "; ".join(said) + "." if said else ""


def _lost(by_model: dict[str, list[Standing]]) -> int:
    return sum(1 for found in by_model.values() if any(s.strand("quality") is not None for s in found))


def _one(theme: str, model: str, found: Sequence[Standing]) -> str:
    standing, strand = _lead(theme, found)
    parts = []
    if strand is not None and strand.value is not None:
        reference = f", reference {number(strand.reference)}" if strand.reference is not None else ""
        parts.append(f"{strand.statistic.replace('_', ' ') or strand.kind} {number(strand.value)}{reference}")
    if strand is not None and strand.importance:
        parts.append(f"{strand.importance:.0%} of its importance")
    if standing.segments:
        parts.append(f"in {', '.join(standing.segments[:3])}")
    parts.append(f"n = {standing.events:,}")
    return f"{model} v{standing.version} ({', '.join(parts)})"


def _evidence(
    theme: str,
    members: Sequence[Standing],
    by_model: dict[str, list[Standing]],
    order: Sequence[str],
    *,
    active: int,
    known: int,
) -> dict[str, Any]:
    affected = []
    for model in order[:DETAILED]:
        standing, strand = _lead(theme, by_model[model])
        entry: dict[str, Any] = {
            "model": model,
            "version": standing.version,
            "incident_id": standing.incident_id,
            "kind": standing.kind,
            "severity": standing.severity,
            "segments": standing.segments,
            "events": standing.events,
            "since": iso(utc(standing.since_ms)),
            "active": any(s.until_ms is None for s in by_model[model]),
        }
        if strand is not None:
            shown = {"value": strand.value, "reference": strand.reference, "importance": strand.importance}
            entry |= {name: value for name, value in shown.items() if value is not None}
        affected.append(entry)
    segments = Counter(segment for s in members for segment in s.segments)
    others = Counter(t for found in by_model.values() for t in {t for s in found for t in s.themes} if t != theme)
    return {
        "blast_radius": {
            "models": len(order),
            "active": active,
            "known_models": known,
            "versions": len({(s.model, s.version) for s in members}),
            "quality_lost": _lost(by_model),
            "events": sum(max(s.events for s in found) for found in by_model.values()),
            "segments": dict(segments.most_common(20)),
            "names": list(order[:NAMED]),
            "not_named": max(len(order) - NAMED, 0),
            "affected": affected,
        },
        "also_moved": dict(sorted(others.items(), key=lambda item: (-item[1], item[0]))[:10]),
    }


def _by_model(members: Sequence[Standing]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = {}
    for standing in members:
        found.setdefault(standing.model, []).append(standing)
    return found


def _lead(theme: str, found: Sequence[Standing]) -> tuple[Standing, Strand | None]:
    """The incident of a model that shows the theme best; its newest where none does any more."""
    showing = [(s, t) for s in found if (t := s.strand(theme)) is not None]
    if not showing:
        return found[-1], None
    return max(showing, key=lambda pair: (rank(pair[0].severity), pair[1].importance or 0.0, pair[0].incident_id))


def _hit(theme: str, found: Sequence[Standing]) -> tuple[bool, int, float, int, str]:
    """Sort key of models: still affected, worst, most dependent, most traffic first."""
    standing, strand = _lead(theme, found)
    importance = (strand.importance or 0.0) if strand is not None else 0.0
    lost = any(s.kind in QUALITY_KINDS for s in found)
    active = any(s.until_ms is None for s in found)
    return not active, -2 * rank(standing.severity) - lost, -importance, -standing.events, standing.model


def _ordinal(count: int) -> str:
    """
    Examples
    --------
    >>> _ordinal(3), _ordinal(11), _ordinal(22)
    ('3rd', '11th', '22nd')
    """
    ending = "th" if count % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"
