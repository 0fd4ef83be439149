"""The summary of a run: the figures asked for, and whether the accounting of the design holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agents.demo.proof import Proof
from schemas.codec import iso
from schemas.topics import DAY_MS, INFERENCE_REQUESTS, PREDICTIONS, dead_letter_topic

if TYPE_CHECKING:
    from agents.demo.run import Demo

DECISIONS = {
    "promoted": "promoted",
    "superseded": "promoted",
    "rejected": "rejected",
    "rolled-back": "rolled-back",
    "approval-requested": "awaiting-approval",
}
POINT_DAYS = 7


def summarise(demo: Demo, proof: Proof) -> dict[str, Any]:
    """The document of ``driftline demo --json``."""
    world = demo.watcher.world
    labels = proof.expectation.final_label
    live, frozen, labelled = demo.book.metrics(labels)
    # What answered nobody is counted apart: the accounting is about requests.
    totals = {name: count - proof.shadow.get(name, 0) for name, count in proof.totals.items()}
    differences = list(proof.differences)
    dead_requests = proof.dead_lettered.get(dead_letter_topic(INFERENCE_REQUESTS), 0)
    distinct = len({identity[2] for identity in proof.expectation.state})
    dead_predictions = totals.get("predictions.dead", 0)
    if proof.requests != distinct + dead_requests:
        differences.append(f"{proof.requests} requests, but {distinct} predictions and {dead_requests} dead letters")
    predictions = totals.get("predictions", 0) + dead_predictions
    placed = totals.get("pending", 0) + totals.get("labelled", 0) + totals.get("expired", 0) + dead_predictions
    if predictions != placed:
        differences.append(f"{predictions} predictions, but {placed} in exactly one place")
    served = {event.to_version for event, _ in world.swaps}
    checks = {
        "requests = predictions + dead-lettered requests": proof.requests == distinct + dead_requests,
        "predictions = pending + labelled + expired + dead-lettered": predictions == placed,
        "monitoring's totals = a plain join of the committed log": not proof.differences,
        "every promoted version was swapped in": {v["version"] for v in _versions(demo) if v["promoted"]} <= served,
        "live quality is not worse than the frozen version's": (live["roc_auc"] or 0) >= (frozen["roc_auc"] or 0),
    }
    return {
        "requests": proof.requests,
        "predictions": predictions,
        "pending": totals.get("pending", 0),
        "labelled": totals.get("labelled", 0),
        "revised": totals.get("revised", 0),
        "expired": totals.get("expired", 0),
        "shadow": {name: proof.shadow[name] for name in ("predictions", "pending", "labelled", "expired")},
        "dead_lettered": proof.dead_lettered,
        "labels": {name: totals.get(f"labels.{name}", 0) for name in ("matched", "duplicate", "late", "orphaned")},
        "lost": proof.lost,
        "duplicated": proof.duplicated,
        "versions": [{k: v[k] for k in ("version", "decision", "reason")} for v in _versions(demo)],
        "swaps": [
            {
                "model": event.model,
                "from": event.from_version,
                "to": event.to_version,
                "offsets": event.offsets,
                "pause_ms": event.pause_ms,
                "at_ms": at_ms,
            }
            for event, at_ms in world.swaps
        ],
        "incidents": len(world.incidents),
        "live": live,
        "frozen": frozen,
        "seconds": {
            "first_joined": None if world.first_metric_at is None else round(world.first_metric_at - demo.started, 2),
            "total": round(time.monotonic() - demo.started, 2),
        },
        "labelled_rows_compared": labelled,
        "checks": checks,
        "differences": differences,
        "disturbance": {
            "seed": demo.options.seed,
            **dict(demo.traffic.disturbance.counts),
            "SIGKILL of agents": ", ".join(demo.killed) or "none",
            "spoiled candidates": int(demo.options.spoil),
        },
        "runs": [_run(run) for run in world.runs.values()],
        "skipped_runs": len(world.skipped_runs),
        "incident_list": [
            {
                "incident_id": alert.incident_id,
                "kind": alert.kind,
                "subject": alert.subject,
                "segment": alert.segment,
                "severity": alert.severity,
                "status": alert.status,
                "opened_at": iso(alert.opened_at),
                "closed_at": iso(alert.closed_at) if alert.closed_at else None,
                "title": alert.title,
                "explanation": alert.explanation,
            }
            for alert in world.incidents.values()
        ],
        "series": _series(demo, labels),
        "settings": {
            "lockstep": demo.options.lockstep,
            "partitions": demo.settings.partitions,
            "start": demo.options.start.isoformat(),
            "until": demo.options.until.isoformat(),
            "topics": [demo.kafka.topic(INFERENCE_REQUESTS), demo.kafka.topic(PREDICTIONS)],
        },
    }


def _run(run: Any) -> dict[str, Any]:
    return {
        "at": iso(run.at),
        "run_id": run.run_id,
        "version": getattr(run, "version", None),
        "decision": getattr(run, "decision", "failed"),
        "reason": getattr(run, "reason", ""),
        "rows": getattr(run, "rows", None),
    }


def _versions(demo: Demo) -> list[dict[str, Any]]:
    """Versions with their decision, from the registry; the reason is the run's."""
    reasons = {getattr(r, "version", None): getattr(r, "reason", "") for r in demo.watcher.world.runs.values()}
    found = []
    with demo.sessions() as session:
        for version in demo.registry.versions(session, demo.spec.name):
            decision = DECISIONS.get(version.stage, version.stage)
            promoted = decision in ("promoted", "rolled-back")
            if version.version == 1 and promoted:
                decision = "initial"
            reason = reasons.get(version.version) or ("first version" if decision == "initial" else "")
            found.append({"version": version.version, "decision": decision, "reason": reason, "promoted": promoted})
    return sorted(found, key=lambda row: int(row["version"]))


def _series(demo: Demo, labels: dict[str, object]) -> list[dict[str, Any]]:
    """Exact metrics by week of departure, live and frozen on the same rows."""
    weeks: dict[int, list[str]] = {}
    width = POINT_DAYS * DAY_MS
    for prediction_id, at_ms in zip(demo.traffic.ids, demo.traffic.times.tolist(), strict=True):
        if prediction_id in labels:
            weeks.setdefault(at_ms // width * width, []).append(prediction_id)
    points = []
    for start in sorted(weeks):
        live, frozen, n = demo.book.metrics(labels, weeks[start])
        points.append({"at_ms": start, "n": n, "live": live, "frozen": frozen})
    return points
