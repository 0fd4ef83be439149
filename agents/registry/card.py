"""A version's model card: Markdown with Hugging Face's front matter, and plots as SVG beside it. Pure.

References
----------
https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from agents.registry.views import VersionInfo
from schemas.codec import iso
from schemas.reference import NumericReference, ReferenceStatistics
from schemas.specification import Specification

_TASKS = {
    "binary": "tabular-classification",
    "multiclass": "tabular-classification",
    "regression": "tabular-regression",
}
MOST_BARS = 20


def card(info: VersionInfo, spec: Specification, reference: ReferenceStatistics | None) -> dict[str, str]:
    """The files of a card by name: ``README.md`` and ``plots/*.svg``.

    Parameters
    ----------
    reference : ReferenceStatistics, optional
        None: nothing is drawn.
    """
    plots = {} if reference is None else _plots(reference)
    front = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _front(info, spec).items())
    body = "\n\n".join(filter(None, _sections(info, spec, plots)))
    return {"README.md": f"---\n{front}\n---\n\n{body}\n", **plots}


def _front(info: VersionInfo, spec: Specification) -> dict[str, Any]:
    """YAML whose values are written as JSON, which is YAML too: names of users need no quoting of another kind."""
    measured = _measured(info)
    found: dict[str, Any] = {
        "library_name": "onnx" if info.parameters.get("format") == "onnx" else "sklearn",
        "pipeline_tag": _TASKS[spec.task],
        "tags": ["driftline", spec.task, *(f"{name}={value}" for name, value in sorted(spec.model.tags.items()))],
        "metrics": list(measured),
    }
    if measured:
        dataset = {"type": info.model, "name": f"{info.model}, held-out rows", "revision": info.dataset.get("sha256")}
        results = {
            "task": {"type": _TASKS[spec.task]},
            "dataset": dataset,
            "metrics": [{"type": name, "value": value} for name, value in measured.items()],
        }
        found["model-index"] = [{"name": f"{info.model} {info.version}", "results": [results]}]
    return found


def _measured(info: VersionInfo) -> dict[str, float]:
    metrics = info.report.get("metrics", {})
    found = metrics.get("candidate", {}) if isinstance(metrics, Mapping) else {}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _sections(info: VersionInfo, spec: Specification, plots: Mapping[str, str]) -> list[str]:
    dataset, holdout = info.dataset, info.report.get("holdout", {})
    facts = {
        "Task": spec.task,
        "Owner": spec.model.owner,
        "Team": spec.model.team,
        "Stage": info.stage + (", champion" if info.champion else ""),
        "Registered": f"{iso(info.registered_at)} by {info.actor}",
        "Flagged": "; ".join(map(str, info.flags)),
        "May hold": ", ".join(f"`{name}`" for name in info.allowed_types),
        "Decision": ": ".join(filter(None, [info.decision, info.reason])),
        "Successor of": f"version {info.parent}" if info.parent is not None else "",
        "Artifact": f"`{info.artifact}`",
        "Code": f"`{info.code.get('tree')}`" if info.code.get("tree") else "",
        "Commit": f"`{info.code['commit']}`" if info.code.get("commit") else "",
        "Estimator": str(info.parameters.get("estimator", "")),
        "Seed": str(info.seed),
        "Python": str(info.environment.get("python", "")),
        "scikit-learn": str(info.environment.get("scikit-learn", "")),
    }
    data = {
        "Rows": str(dataset.get("rows", "")),
        "Labelled": str(dataset.get("labelled", "")),
        "From": str(dataset.get("first_event", "")),
        "Until": str(dataset.get("last_event", "")),
        "Held out": f"{holdout.get('rows', '')} rows, the latest" if holdout else "",
        "Rows SHA-256": f"`{dataset['sha256']}`" if dataset.get("sha256") else "",
    }
    bias = info.report.get("bias", {})
    return [
        f"# {info.model}, version {info.version}",
        spec.model.description,
        "## The model",
        _table(("", ""), facts.items()),
        "## Intended use",
        f"Predicts `{spec.data.label}` from {len(spec.features)} features; labels become known within "
        f"{spec.data.max_label_delay}. It was validated on the rows described below, and says nothing of others.",
        _table(("feature", "kind"), spec.features.items()),
        "## Data",
        _table(("", ""), data.items()),
        "## Quality on held-out rows",
        _table(("metric", "value"), ((name, f"{value:.4f}") for name, value in _measured(info).items())),
        *(f"![{name.rpartition('/')[2].removesuffix('.svg')}]({name})" for name in plots),
        "## Groups" if bias else "",
        *(_bias(column, found) for column, found in bias.items()),
        "## Limits",
        "\n".join(f"- {remark}" for remark in info.report.get("remarks", []))
        or "The gate had no remark. Quality in production is what monitoring says, not this page.",
    ]


def _bias(column: str, found: Mapping[str, Any]) -> str:
    groups: Mapping[str, Mapping[str, Any]] = found.get("groups", {})
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    rows = ([group, *(str(values.get(name, "")) for name in names)] for group, values in groups.items())
    return f"By `{column}`:\n\n" + _table((column, *names), rows)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [row for row in lines if any(row[1:])]
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *lines])


def _plots(reference: ReferenceStatistics) -> dict[str, str]:
    found = {}
    if reference.importances:
        ranked = sorted(reference.importances.items(), key=lambda item: -item[1])[:MOST_BARS]
        found["plots/importances.svg"] = bars("Loss of the primary metric without a feature", ranked)
    if isinstance(reference.scores, NumericReference) and any(reference.scores.counts):
        edges, counts = reference.scores.edges, reference.scores.counts
        named = [f"< {edges[0]:.3g}", *(f"{edge:.3g} –" for edge in edges)] if edges else ["all"]
        total = sum(counts)
        shares = [(name, count / total) for name, count in zip(named, counts, strict=False)]
        found["plots/scores.svg"] = bars("Scores of held-out rows", shares[: 3 * MOST_BARS])
    return found


def bars(title: str, rows: list[tuple[str, float]]) -> str:
    """A horizontal bar chart."""
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    lines = []
    for number, (name, value) in enumerate(rows):
        y, length = 34 + number * 20, 260 * abs(value) / largest
        label = name if len(name) <= 24 else name[:23] + "…"
        lines.append(
            f'<text x="150" y="{y + 12}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="156" y="{y}" width="{length:.1f}" height="15" fill="{"#3b82f6" if value >= 0 else "#d97706"}"/>'
            f'<text x="{162 + length:.1f}" y="{y + 12}">{value:.4g}</text>'
        )
    height = 44 + 20 * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 {height}" width="500" height="{height}" role="img" '
        f'aria-label="{escape(title)}"><style>text{{font:11px system-ui,sans-serif;fill:#374151}}'
        f"@media(prefers-color-scheme:dark){{text{{fill:#e5e7eb}}}}</style>"
        f'<text x="8" y="18" style="font-weight:600">{escape(title)}</text>{"".join(lines)}</svg>\n'
    )
