"""How much crossings weigh: what is serious, what is a cause, and when drift alone is a reason to act. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.alerting.crossing import DRIFT_KINDS, INPUT_KINDS, QUALITY_KINDS, Crossing, rank
from schemas.events import Kind
from schemas.specification import Specification

MATTERS = 0.5
"""Share of the model's importance that must have moved for drift alone to be an incident."""
MATTERS_WITH_PREDICTIONS = 0.2
"""The same share when the distribution of predictions moved too."""
NEGLIGIBLE = 0.01
"""Share of the model's importance below which a feature explains nothing and nobody needs to act on it."""
CALM = 0.5
"""Drift stops to matter below this part of the bound that opened it."""


def importance_moved(drifts: Sequence[Crossing], unknown: float = 0.0) -> float:
    """Share of the model's importance carried by the features that moved overall, each counted once (0–1).

    `unknown`: what a feature counts whose importance nobody knows.
    """
    moved = [c for c in drifts if c.kind == "data-drift" and not c.segment]
    shares = {c.subject: unknown if c.importance is None else c.importance for c in moved}
    return min(1.0, sum(shares.values()))


LASTING_MS = 7 * 86_400_000
"""Inputs alone have to have moved in a window of this length: one odd day that costs nothing is no reason to act."""


def lasting_windows(spec: Specification | None) -> frozenset[str]:
    """Windows that tell a change from an odd day: of a week or more, else the longest there are; empty: no matter."""
    lengths = {} if spec is None else {name: window.length_ms for name, window in spec.time_windows.items()}
    least = min(LASTING_MS, max(lengths.values(), default=0))
    return frozenset(name for name, length in lengths.items() if length >= least)


def drift_matters(
    drifts: Sequence[Crossing], part: float, features: int = 0, lasting: frozenset[str] = frozenset()
) -> bool:
    """Whether drift alone is a reason to act.

    Parameters
    ----------
    part : float
        Scales the bounds (hysteresis).
    features : int
        Features of the model: where importances are not known (models that are only watched) each counts the same.
    lasting : frozenset of str
        Windows in which inputs have to have moved where predictions did not; empty: any.
    """
    serious = [c for c in drifts if is_serious(c) and not c.seasonal and not c.quiet]
    unknown = 1.0 / features if features else 0.0
    moved = importance_moved(serious, unknown)
    lasted = importance_moved([c for c in serious if not lasting or c.window in lasting], unknown)
    predictions = [c for c in serious if c.kind == "prediction-drift" and not c.segment]
    if predictions and moved >= MATTERS_WITH_PREDICTIONS * part:
        return True
    # Predictions far from the reference although no input is: something that nobody measures broke.
    return lasted >= MATTERS * part or any(c.severity == "critical" for c in predictions)


def is_serious(crossing: Crossing) -> bool:
    """At least a warning."""
    return rank(crossing.severity) >= rank("warning")


def is_negligible(crossing: Crossing) -> bool:
    """About a feature that the model hardly looks at."""
    return crossing.importance is not None and crossing.importance < NEGLIGIBLE


def is_cause(crossing: Crossing) -> bool:
    """Something serious about the inputs that matters, and not the calendar: a possible cause of lost quality."""
    if crossing.seasonal or is_negligible(crossing) or not is_serious(crossing):
        return False
    return crossing.kind in DRIFT_KINDS or is_input_fault(crossing)


def is_input_fault(crossing: Crossing) -> bool:
    """Unusable values of a feature, or a feature that serving computes otherwise than training did."""
    return crossing.kind in INPUT_KINDS and crossing.feature is not None


def features_of(crossings: Iterable[Crossing]) -> set[str]:
    """Features that crossings are about."""
    return {name for crossing in crossings if (name := crossing.feature) is not None}


def opens(crossing: Crossing) -> bool:
    """Whether a crossing (not of drift) is a reason to act.

    Notes
    -----
    A crossing of quality has passed the false-alarm budget: it is one, however small the loss. Everything else has to
    be serious, and to concern a feature that the model looks at, unless it is critical.
    """
    if crossing.seasonal or crossing.quiet:
        return False
    if crossing.kind in QUALITY_KINDS or crossing.severity == "critical":
        return True
    return is_serious(crossing) and not is_negligible(crossing)


def drift_kind(drifts: Sequence[Crossing]) -> Kind:
    """Kind of an incident of drift: that of inputs, where any of them moved."""
    return "data-drift" if any(c.kind == "data-drift" for c in drifts) else drifts[0].kind


def worst_first(crossing: Crossing) -> tuple[int, bool, float, int, str]:
    """Sort key: severity, overall before segments, importance, age."""
    return (
        -rank(crossing.severity),
        crossing.segment != "",
        -(crossing.importance or 0.0),
        crossing.since_ms,
        crossing.key,
    )


def lead_of(members: Sequence[Crossing]) -> Crossing:
    """The crossing that names an incident."""
    return min(members, key=worst_first)


def names(crossings: Sequence[Crossing]) -> list[str]:
    """Subjects with their segment, each once."""
    return list(dict.fromkeys(f"{c.kind}:{c.subject}@{c.segment}" for c in crossings))
