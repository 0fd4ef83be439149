"""What the retraining agent decides: whether a request leads to a run, what a registry event means for one. Pure."""

from __future__ import annotations

from schemas.durations import format_duration
from schemas.events import (
    AnyRegistryEvent,
    ApprovalRequested,
    Decision,
    ModelPromoted,
    ModelRolledBack,
    RetrainRequest,
    VersionRejected,
)
from schemas.specification import AUTO, Specification

REFERENCE = "reference"
"""Trigger of a run that learns the reference of a watched model."""
BY_HAND = frozenset({"manual", "registration", REFERENCE})
"""Triggers of people, and the learning of a reference: no cool-down, and they do not start one."""


def refusal(
    request: RetrainRequest,
    spec: Specification,
    *,
    open_run: str | None,
    champion: int | None,
    last_as_of_ms: int | None,
    as_of_ms: int,
) -> str | None:
    """Why a request leads to no run; None where it does.

    Parameters
    ----------
    open_run : str, optional
        Run of this model that has not ended.
    champion : int, optional
        Version in production.
    last_as_of_ms : int, optional
        Event time of the model's last automatic run.
    as_of_ms : int
        Event time of the request.
    """
    if open_run is not None:
        return f"run {open_run[:8]} of this model has not ended"
    if champion is None:
        return "no version of the model is in production yet"
    if request.trigger in BY_HAND or last_as_of_ms is None:
        return None
    waited = as_of_ms - last_as_of_ms
    if waited < spec.cool_down_ms:
        return (
            f"the cool-down of {format_duration(spec.cool_down_ms)} since the last run has not passed: "
            f"{max(waited, 0) / 86_400_000:.1f} days"
        )
    return None


def too_few(labelled: int, spec: Specification) -> str | None:
    """Why there is not enough to learn from; None where there is."""
    if labelled >= spec.retraining.min_labels:
        return None
    window = spec.retraining.training_window
    where = "" if window == AUTO else f" in the training window of {window}"
    return f"{labelled} labelled rows{where}, {spec.retraining.min_labels} are needed"


def outcome(event: AnyRegistryEvent) -> tuple[int, Decision] | None:
    """Version and decision that a registry event tells of; None where it decides nothing."""
    match event:
        case ModelPromoted(version=version):
            return version, "promoted"
        case VersionRejected(version=version):
            return version, "rejected"
        case ApprovalRequested(version=version):
            return version, "awaiting-approval"
        case ModelRolledBack(previous=previous):
            return previous, "rolled-back"
        case _:
            return None
