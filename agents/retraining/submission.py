"""A validated candidate on its way to the registry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agents.onnx_check import is_onnx
from agents.registry.service import Registry
from agents.retraining.gate import Verdict
from schemas.codec import derived_id
from schemas.events import SubmitCandidate

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from agents.retraining.trainer import Candidate


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Everything that a version records.

    `environment`: as `agents.retraining.lock.record`; `compute`: as `agents.retraining.threads.computing`.
    `choice`: how the rows to learn from were chosen, where they were.
    """

    spec_text: str
    artifact: str
    reference: str
    code: dict[str, Any]
    dataset: dict[str, Any]
    environment: dict[str, str]
    compute: dict[str, Any]
    candidate: Candidate
    verdict: Verdict
    seed: int
    champion: int | None
    run_id: str
    actor: str
    at: datetime
    choice: dict[str, Any] | None = None

    @property
    def report(self) -> dict[str, Any]:
        """The validation report with the rows that were learnt from, and how they were chosen."""
        chosen = {} if self.choice is None else {"choice": self.choice}
        return {"rows": self.candidate.trained_rows, **chosen, **self.verdict.report}

    def command(self, version: int) -> SubmitCandidate:
        """The command that asks the registry to decide."""
        return SubmitCandidate(
            command_id=derived_id("submit", self.run_id),
            model=self.candidate.spec.name,
            actor=self.actor,
            version=version,
            run_id=self.run_id,
            passed=self.verdict.passed,
            reason=self.verdict.reason,
            at=self.at,
        )


def register_candidate(registry: Registry, session: Session, submission: Submission) -> int:
    """Write the version; returns its number. It commits with `session`."""
    candidate = submission.candidate
    return registry.register_version(
        session,
        candidate.spec.name,
        artifact=submission.artifact,
        reference=submission.reference,
        specification_text=submission.spec_text,
        code=submission.code,
        dataset=submission.dataset,
        environment=submission.environment,
        parameters={
            "estimator": type(candidate.estimator).__name__,
            "format": "onnx" if is_onnx(candidate.model_bytes) else "skops",
            "holdout_from_ms": candidate.cutoff_ms,
            "trained_rows": candidate.trained_rows,
            "heldout_rows": int(candidate.heldout.sum()),
            "steps_reused": list(candidate.reused),
            "compute": submission.compute,
        },
        seed=submission.seed,
        parent=submission.champion,
        run_id=submission.run_id,
        report=submission.report,
        actor=submission.actor,
        at=submission.at,
    )
