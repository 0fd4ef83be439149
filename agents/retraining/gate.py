"""The gate: may a candidate take the champion's place? Both are judged on the same latest labelled rows.

A candidate passes when

1. its primary metric is not worse than the champion's by more than the overall tolerance. The point estimate decides:
   staying with a worse champion costs as much as promoting a worse candidate, so the better estimate is taken, and an
   exact tie goes to the candidate, whose reference is newer. The paired bootstrap interval says how sure that is, and
   is reported;
2. no segment, and not the cost, lost more than its tolerance beyond what chance explains. With many segments some
   estimate is always below zero, and of twenty intervals one lies there by chance: all of them together may refuse an
   equal candidate in one of twenty cases. Values with too few rows are judged together, as ``(others)``;
3. it answers as fast as the champion, within a wide margin, and survives being written to a file and read back;
4. the project's own `validate` did not refuse it.

A first version has no champion: it passes when its primary metric is defined. The bias report informs; it does not
refuse, because what difference between groups is right is for people to say.

The gate cannot see the future. It compares on rows that neither model was fitted on: where the champion has seen some
of them, those are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.retraining.groups import bias_report
from agents.retraining.quality import Comparison, compare, metrics_of
from agents.retraining.scoring import Scored
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

LEAST_ROWS: Final = 200
LEAST_OF_CLASS: Final = 20
CHANCE: Final = 0.05
"""Of refusing an equal candidate for its segments or its cost: shared by all of them."""
OTHERS: Final = "(others)"
SLOWEST_RATIO: Final = 10.0
SLOW_MS: Final = 1000.0
NO_CHAMPION = "there is no champion to compare with"


@dataclass(frozen=True)
class Evidence:
    """What the gate judges; arrays have one entry a held-out row.

    Parameters
    ----------
    rows : DataFrame
        With the label, the segments and the sensitive columns.
    blocks : array of int
        Pane of each row.
    candidate : Scored
    champion : Scored, optional
    unseen : array of bool, optional
        Rows that the champion was not fitted on; default all.
    latency_ms : tuple of float, optional
        Time that the candidate and the champion take for 1000 rows.
    round_trip : bool
        Whether the model read back from its file predicts exactly the same.
    project_checks : dict, optional
        What `validate` of the project said: ``passed`` and what it reported.
    champion_version : int, optional
    """

    rows: pd.DataFrame
    blocks: NDArray[np.int64]
    candidate: Scored
    champion: Scored | None = None
    unseen: NDArray[np.bool_] | None = None
    latency_ms: tuple[float, float] | None = None
    round_trip: bool = True
    project_checks: dict[str, Any] | None = None
    champion_version: int | None = None


@dataclass(frozen=True)
class Verdict:
    """`reason` in plain words with numbers; `report` is the validation report that the version carries."""

    passed: bool
    reason: str
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Case:
    """A candidate before the gate: the rows both models are judged on, and what was found."""

    spec: Specification
    rows: pd.DataFrame
    labels: NDArray[Any]
    blocks: NDArray[np.int64]
    candidate: Scored
    champion: Scored
    seed: int
    report: dict[str, Any]
    refused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def compare(self, name: str, chosen: NDArray[np.bool_] | None = None) -> Comparison | None:
        if chosen is None:
            chosen = np.ones(len(self.labels), dtype=bool)
        return compare(
            self.spec,
            name,
            self.labels[chosen],
            self.candidate.at(chosen),
            self.champion.at(chosen),
            blocks=self.blocks[chosen],
            seed=self.seed,
        )

    def part(self, chosen: NDArray[np.bool_]) -> Comparison | None:
        """The primary metric on some rows; None where they are too few."""
        return self.compare(self.spec.metrics.primary, chosen) if _enough(self.spec, self.labels[chosen]) else None


def judge(spec: Specification, evidence: Evidence, *, seed: int = 0) -> Verdict:
    """Decide on a candidate; the same evidence gives the same verdict."""
    labels = evidence.rows[spec.data.label].to_numpy(dtype=object)
    watched = [*spec.watched, *(["cost"] if spec.metrics.cost and "cost" not in spec.watched else [])]
    metrics = metrics_of(spec, labels, evidence.candidate, watched)
    report: dict[str, Any] = {
        "holdout": {"rows": len(labels), "panes": len(np.unique(evidence.blocks))},
        "metrics": {"candidate": metrics},
        "bias": bias_report(spec, evidence.rows, evidence.candidate),
    }
    if evidence.latency_ms is not None:
        report["latency_ms_per_1000"] = {
            "candidate": round(evidence.latency_ms[0], 1),
            "champion": round(evidence.latency_ms[1], 1) if evidence.champion is not None else None,
        }
    if evidence.project_checks is not None:
        report["project"] = evidence.project_checks
    refused, remarks, said = [], [], ""
    primary = spec.metrics.primary
    if evidence.champion is not None:
        case = _case(spec, evidence, labels, report, seed)
        said = _against(case)
        refused, remarks = case.refused, case.remarks
    elif metrics[primary] is None:
        refused.append(f"{primary} is not defined on the held-out rows")
    else:
        report["primary"] = {"metric": primary, "candidate": metrics[primary], "champion": None}
        said = f"first version: {primary} {metrics[primary]:.4f} on the latest labelled rows; {NO_CHAMPION}"
    refused.extend(_others(evidence))
    report.update(reasons=refused, remarks=remarks, passed=not refused)
    return Verdict(not refused, "; ".join(refused or [said, *remarks]), report)


def _case(spec: Specification, evidence: Evidence, labels: NDArray[Any], report: dict[str, Any], seed: int) -> _Case:
    """The rows that neither model was fitted on; all, with a remark, where too few are left."""
    assert evidence.champion is not None
    case = _Case(
        spec, evidence.rows, labels, evidence.blocks, evidence.candidate, evidence.champion, seed=seed, report=report
    )
    report["champion_version"] = evidence.champion_version
    unseen = evidence.unseen
    if unseen is None or unseen.all():
        return case
    seen = int((~unseen).sum())
    if not _enough(spec, labels[unseen]):
        case.remarks.append(f"the champion has learnt from {seen} of the {len(labels)} rows")
        return case
    case.remarks.append(f"{seen} rows that the champion has learnt from were left out")
    case.rows = case.rows[unseen].reset_index(drop=True)
    case.labels, case.blocks = labels[unseen], case.blocks[unseen]
    case.candidate, case.champion = case.candidate.at(unseen), case.champion.at(unseen)
    return case


def _against(case: _Case) -> str:
    """Judge the primary metric, the cost and the segments; returns what is to be said of the primary metric."""
    report, spec = case.report, case.spec
    report["metrics"]["champion"] = metrics_of(spec, case.labels, case.champion, list(report["metrics"]["candidate"]))
    report["compared_rows"] = len(case.labels)
    overall = case.compare(spec.metrics.primary)
    if overall is None:
        case.refused.append(f"{spec.metrics.primary} is not defined on the {len(case.labels)} compared rows")
        return ""
    report["primary"] = overall.report()
    said = _words(overall, "")
    if overall.gain < -spec.validation.tolerance.overall:
        case.refused.append(said + _allowed(spec.validation.tolerance.overall))
    judged = []
    if spec.metrics.cost and spec.task == "binary" and spec.metrics.primary != "cost":
        cost = case.compare("cost")
        if cost is not None:
            report["cost"] = cost.report()
            judged.append((0.0, "", cost))
    judged += [(spec.validation.tolerance.segment, key, found) for key, found in _segments(case).items()]
    for tolerance, key, found in judged:
        if found.surely_below(-tolerance, CHANCE / len(judged)):
            where = f" in segment {key}" if key else ""
            case.refused.append(_words(found, where) + (_allowed(tolerance) if key else "") + ", beyond chance")
    return said


def _segments(case: _Case) -> dict[str, Comparison]:
    """Compare in every value of every segment column that has enough rows, and in the others together."""
    found: dict[str, Comparison] = {}
    thin: list[str] = []
    for column in case.spec.data.segments:
        values = case.rows[column]
        left = values.isna().to_numpy(dtype=bool)
        few: list[str] = []
        for value in sorted(values.dropna().unique().tolist(), key=str):
            chosen = (values == value).to_numpy(dtype=bool)
            part = case.part(chosen)
            if part is None:
                few.append(f"{column}={value}")
                left = left | chosen
            else:
                found[f"{column}={value}"] = part
        together = case.part(left) if left.any() and not left.all() else None
        if together is not None:
            found[f"{column}={OTHERS}"] = together
        else:
            thin += few
    case.report["segments"] = {key: part.report() for key, part in found.items()}
    if thin:
        case.report["segments_not_judged"] = thin
        case.remarks.append(f"{len(thin)} segment{'s' * (len(thin) > 1)} with too few rows not judged")
    return found


def _enough(spec: Specification, labels: NDArray[Any]) -> bool:
    if len(labels) < LEAST_ROWS:
        return False
    if spec.task == "regression":
        return True
    _, counts = np.unique(labels.astype(str), return_counts=True)
    return len(counts) >= 2 and int(np.sort(counts)[-2]) >= LEAST_OF_CLASS


def _others(evidence: Evidence) -> list[str]:
    refused = []
    if evidence.latency_ms is not None and evidence.champion is not None:
        mine, theirs = evidence.latency_ms
        # Wall-clock times differ from run to run: only what nobody could miss refuses.
        if mine > SLOW_MS and mine > SLOWEST_RATIO * theirs:
            refused.append(f"it takes {mine:.0f} ms for 1000 rows, the champion {theirs:.0f} ms")
    if not evidence.round_trip:
        refused.append("the model read back from its file predicts something else than the one that was trained")
    checks = evidence.project_checks
    if checks is not None and not checks.get("passed", True):
        details = ", ".join(f"{key} {value}" for key, value in checks.items() if key != "passed")
        refused.append("validate in pipeline.py refuses it" + (f" ({details})" if details else ""))
    return refused


def _words(found: Comparison, where: str) -> str:
    side = "better" if found.gain > 0 else "worse"
    relation = f"{side} by {abs(found.gain):.4f}" if found.gain else "equal"
    interval = f"90 % interval of the gain {found.low:+.4f} to {found.high:+.4f}"
    return (
        f"{found.metric}{where} {found.candidate:.4f} against the champion's {found.champion:.4f} on {found.n} rows: "
        f"{relation} ({interval})"
    )


def _allowed(tolerance: float) -> str:
    return f", {tolerance:g} allowed"
