"""The report of a demo run: one HTML file without scripts or outside references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from agents.demo.charts import line_chart

STYLE = """
:root{color-scheme:light dark;--ink:#111827;--soft:#6b7280;--line:#e5e7eb;--card:#f9fafb;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#9ca3af;--line:#374151;--card:#1f2937;--page:#111827}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
.cards{display:flex;gap:.8rem;flex-wrap:wrap}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem;min-width:8.5rem}
.card b{display:block;font-size:1.35rem}.card span,figcaption{color:var(--soft)}figure{margin:1rem 0}
figcaption span{margin-left:1rem}
figcaption i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.3em}
svg{width:100%;height:auto}.grid{stroke:var(--line)}.mark{stroke:#9ca3af;stroke-dasharray:4 4}
.band{fill:#dc2626;opacity:.14}
.tick{fill:var(--soft);font-size:11px}.bad{color:#dc2626}.good{color:#059669}code{font-size:.9em}
"""


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(_text(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)


def card(value: object, name: str, *, good: bool | None = None) -> str:
    """A number with its name."""
    colour = "" if good is None else ' class="good"' if good else ' class="bad"'
    return f'<div class="card"><b{colour}>{escape(_text(value))}</b><span>{escape(name)}</span></div>'


def render(
    summary: Mapping[str, Any], series: Sequence[Mapping[str, Any]], incidents: Sequence[Mapping[str, Any]]
) -> str:
    """The report as HTML.

    Parameters
    ----------
    summary : mapping
        The document of ``driftline demo --json``.
    series : sequence of mapping
        ``{"at_ms", "n", "live": {...}, "frozen": {...}}`` for each replayed week.
    incidents : sequence of mapping
        The last alert of each incident.
    """
    swaps = summary["swaps"]
    marks = [(swap["at_ms"], f"v{swap['from'] or '–'} → v{swap['to']}") for swap in swaps if swap.get("at_ms")]
    months = []
    if series:
        first, last = (datetime.fromtimestamp(series[k]["at_ms"] / 1000, UTC) for k in (0, -1))
        for month in range(24):
            at = datetime(
                first.year + (first.month - 1 + month) // 12, (first.month - 1 + month) % 12 + 1, 1, tzinfo=UTC
            )
            if at <= last:
                months.append((at.timestamp() * 1000, at.strftime("%b")))
    charts = []
    for name, title in (
        ("roc_auc", "ROC AUC by week"),
        ("accuracy", "Accuracy by week"),
        ("brier", "Brier score by week"),
    ):
        lines = {
            who: [(point["at_ms"], point[who][name]) for point in series if point[who].get(name) is not None]
            for who in ("live", "frozen")
        }
        charts.append(line_chart(lines, title=title, ticks=months, marks=marks))
    live, frozen = summary["live"], summary["frozen"]
    labels = summary["labels"]
    accounting = [
        ("requests", summary["requests"]),
        ("predictions", summary["predictions"]),
        ("pending", summary["pending"]),
        ("labelled", summary["labelled"]),
        ("of these revised", summary["revised"]),
        ("expired", summary["expired"]),
        *((f"dead letters of {topic}", n) for topic, n in summary["dead_lettered"].items()),
        *((f"labels {name}", n) for name, n in labels.items()),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Driftline demo</title><style>{STYLE}</style></head><body>
<h1>A year of flights through the loop</h1>
<div class="cards">
{card(summary["requests"], "requests")}{card(summary["lost"], "lost", good=summary["lost"] == 0)}
{card(summary["duplicated"], "duplicated", good=summary["duplicated"] == 0)}{card(len(swaps), "swaps")}
{card(summary["incidents"], "incidents")}{card(live.get("roc_auc"), "ROC AUC live")}
{card(frozen.get("roc_auc"), "ROC AUC frozen v1")}</div>
<h2>Quality: what was live beside the frozen first version</h2>
{"".join(charts)}
{html_table(["metric", "live", "frozen"], [[name, live[name], frozen.get(name)] for name in live])}
<h2>Versions</h2>
{
        html_table(
            ["version", "decision", "reason"], [[v["version"], v["decision"], v["reason"]] for v in summary["versions"]]
        )
    }
<h2>Swaps</h2>
{
        html_table(
            ["from", "to", "pause ms", "first offsets answered"],
            [[s["from"], s["to"], s["pause_ms"], s["offsets"]] for s in swaps],
        )
    }
<h2>Incidents</h2>
{
        html_table(
            ["opened", "closed", "kind", "severity", "title", "explanation"],
            [
                [i["opened_at"], i["closed_at"], i["kind"], i["severity"], i["title"], i["explanation"]]
                for i in incidents
            ],
        )
    }
<h2>Accounting</h2>
{html_table(["what", "count"], accounting)}
<h2>The disturbance (seed {escape(str(summary["disturbance"].get("seed")))})</h2>
{html_table(["what", "count"], [[k, v] for k, v in summary["disturbance"].items()])}
<h2>Checks</h2>
{html_table(["check", "result"], [[k, v] for k, v in summary["checks"].items()])}
<p><code>{escape(str(summary["settings"]))}</code></p>
</body></html>
"""
