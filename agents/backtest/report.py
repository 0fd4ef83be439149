"""The report of a backtest: one HTML file with charts inside, without scripts or outside references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from agents.demo.charts import line_chart
from agents.demo.report import STYLE, card, html_table
from schemas.codec import segment_key

MOST_MONTHS: Final = 600
MOST_TICKS: Final = 12
MOST_SEGMENTS: Final = 12


def render(found: Mapping[str, Any]) -> str:
    """The report.

    Parameters
    ----------
    found : mapping
        The document of ``driftline backtest --json``.
    """
    summary, rules = found["summary"], found["alarms"]["rules"]
    ways = list(summary)
    names = list(summary["live"])
    variants = found.get("variants", ())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Backtest of {escape(found["model"])}</title><style>{STYLE}</style></head><body>
<h1>Backtest of {escape(found["model"])}</h1>
<p>{found["events"]:,} predictions from {escape(found["from"])} to {escape(found["until"])},
{found["labelled"]:,} labelled in time. {escape(_mode(found))}</p>
<div class="cards">{card(len(found["incidents"]), "incidents")}
{card(rules[0]["false"], "of these false in hindsight", good=rules[0]["false"] <= found["alarms"]["tolerated"])}
{card(f"{rules[0]['losses_found']} of {rules[0]['losses']}", "losses of quality found")}
{card(sum(run["decision"] == "promoted" for run in found["retrainings"]), "successors promoted")}
{"".join(card(summary["live"][name], f"{name} live") for name in names[:2])}</div>
<h2>Quality: live beside the frozen first version</h2>
{_charts(found, names)}
{html_table(["metric, all labelled rows", *(way.replace("_", " ") for way in ways)],
            [[name, *(summary[way][name] for way in ways)] for name in names])}
{_segment_table(found, names)}
<h2>Incidents</h2>
{html_table(["opened", "closed", "kind", "severity", "in hindsight", "what", "explanation"],
            [[i["opened_at"], i["closed_at"], i["kind"], i["severity"], i["hindsight"], i["title"], i["explanation"]]
             for i in found["incidents"]])}
<h2>How good the alarms were</h2>
<p>In hindsight, with all labels known. The budget tolerates {found["alarms"]["tolerated"]:g} false incidents in these
{found["alarms"]["days"]:g} days ({escape(str(found["alarms"]["budget"]))}); {found["alarms"]["not_judged"]} incidents
are about the data themselves and cannot be judged by quality.</p>
{_rules(rules)}
{_shuffled(found["alarms"].get("shuffled"))}
<h2>Retrainings</h2>
{html_table(["at", "trigger", "rows", "decision", "version", "reason"],
            [[r["at"], r["trigger"], r["rows"], r["decision"], r["version"], r["reason"]]
             for r in found["retrainings"]])}
{_variants(variants)}
<h2>Without any retraining</h2>
{html_table(["opened", "closed", "kind", "severity", "in hindsight", "what"],
            [[i["opened_at"], i["closed_at"], i["kind"], i["severity"], i["hindsight"], i["title"]]
             for i in found["frozen"]["incidents"]])}
{_rules(found["frozen"]["alarms"]["rules"])}
<h2>Accounting</h2>
{html_table(["what", "count"], [[k, v] for k, v in found["accounting"].items() if not isinstance(v, dict)])}
{html_table(["left out of", "why", "count", "first rows"],
            [[area, why, what["count"], ", ".join(map(str, what["rows"]))]
             for area, reasons in found["left_out"].items() for why, what in reasons.items()])}
</body></html>
"""  # fmt: skip


def _mode(found: Mapping[str, Any]) -> str:
    said = {
        "recorded": "The predictions are those of the file; nothing was trained.",
        "frozen": "Nothing was retrained.",
        "live": f"Version 1 learnt from what was known at {found['train_until']}.",
    }
    settings = ", ".join(f"{key} = {value}" for key, value in found["settings"].items())
    return said[found["mode"]] + (f" Set otherwise: {settings}." if settings else "")


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def _charts(found: Mapping[str, Any], names: Sequence[str]) -> str:
    marks = [(_at(swap["at"]), f"version {swap['version']}") for swap in found["swaps"]]
    bands = [(_at(i["opened_at"]), _at(i["closed_at"] or found["until"]), i["title"]) for i in found["incidents"]]
    out = []
    for segment in _segments(found["series"]):
        series = [row for row in found["series"] if segment_key(row["segment"]) == segment]
        months = _months(series)
        for name in names if not segment else names[:1]:
            lines = {
                who: [(_at(row["window_start"]), row[who][name]) for row in series if row[who].get(name) is not None]
                for who in ("live", "frozen")
            }
            title = f"{name}{f' in {segment}' if segment else ''}"
            out.append(line_chart(lines, title=title, ticks=months, marks=marks, bands=bands if not segment else ()))
    return "".join(out)


def _segments(series: Sequence[Mapping[str, Any]]) -> list[str]:
    """Overall, and the segments with the most rows."""
    rows: dict[str, int] = {}
    for row in series:
        key = segment_key(row["segment"])
        rows[key] = rows.get(key, 0) + row["n"]
    return sorted(rows, key=lambda key: (key != "", -rows[key], key))[: MOST_SEGMENTS + 1]


def _months(series: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """First days of months in a stretch, few enough to be read."""
    if not series:
        return []
    first, last = (datetime.fromisoformat(series[at]["window_start"]) for at in (0, -1))
    months = []
    for number in range(MOST_MONTHS):
        year, month = divmod(first.year * 12 + first.month - 1 + number, 12)
        at = datetime(year, month + 1, 1, tzinfo=UTC)
        if at > last:
            break
        months.append((at.timestamp() * 1000, at.strftime("%b" if at.month > 1 else "%Y")))
    step = -(-len(months) // MOST_TICKS) or 1
    return months[::step]


def _segment_table(found: Mapping[str, Any], names: Sequence[str]) -> str:
    if not found["segments"]:
        return ""
    return html_table(
        ["segment", "rows", *(f"{name} {who}" for name in names for who in ("live", "frozen"))],
        [
            [segment_key(row["segment"]), row["n"], *(row[who][name] for name in names for who in ("live", "frozen"))]
            for row in found["segments"]
        ],
    )


def _rules(rules: Sequence[Mapping[str, Any]]) -> str:
    return html_table(
        ["rule", "alarms", "false", "false per 30 days", "95 % interval", "losses found", "median delay, days"],
        [
            [
                *(rule["rule"], rule["alarms"], rule["false"], rule["false_per_30d"]),
                " – ".join(f"{bound:.2f}" for bound in rule["interval_per_30d"]),
                f"{rule['losses_found']} of {rule['losses']}",
                rule["median_delay_days"],
            ]
            for rule in rules
        ],
    )


def _shuffled(mixed: Mapping[str, Any] | None) -> str:
    if mixed is None:
        return ""
    low, high = mixed["interval_per_30d"]
    return (
        f"<p>With the panes in another order, where nothing changes: {mixed['per_30d']:.2f} incidents of quality and "
        f"drift per 30 days (95 % interval {low:.2f} – {high:.2f}) in {mixed['shuffles']} histories; "
        f"{mixed['tolerated_per_30d']:g} are tolerated.</p>"
    )


def _variants(variants: Sequence[Mapping[str, Any]]) -> str:
    if not variants:
        return ""
    rows = []
    for variant in variants:
        rule = variant["alarms"]["rules"][0]
        rows.append(
            [
                ", ".join(f"{key} = {value}" for key, value in variant["set"].items()),
                len(variant["incidents"]),
                rule["false"],
                f"{rule['losses_found']} of {rule['losses']}",
                sum(run["decision"] == "promoted" for run in variant["retrainings"]),
                *variant["summary"]["live"].values(),
            ]
        )
    names = list(variants[0]["summary"]["live"])
    head = ["set otherwise", "incidents", "false", "losses found", "promoted", *(f"{name} live" for name in names)]
    return f"<h2>The same history under other rules</h2>{html_table(head, rows)}"
