"""The answers in plain words, as sections of labelled lines: for the command line and for the page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from agents.provenance.account import Account, Deed, Reign
    from agents.provenance.live import ByClock, ByEventTime, Live
    from agents.provenance.traffic import Window
    from agents.provenance.why import Ending, Incident, Run, Why


SHOWN = 8
Lines = list[tuple[str, str]]
"""Label and text."""


class Section(NamedTuple):
    """A heading and what stands under it."""

    title: str
    lines: Lines


def when(at: datetime) -> str:
    """A time to the second, UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def live(found: Live) -> list[Section]:
    """Who was live, and an account of each version that is named."""
    lines: Lines = []
    if found.event_time is not None:
        lines += _by_event_time(found.event_time, found.at)
    if found.clock is not None:
        lines += _by_clock(found.clock)
    lines += [("note", text) for text in found.notes]
    heading = Section(f"{found.model} at {when(found.at)} UTC", lines)
    return [heading, *(account(one) for one in found.versions)]


def why(found: Why) -> list[Section]:
    """Why it came, who let it and with which numbers, what was it made of, how it did and why it went."""
    told = found.account
    made = [("quality", line) for line in _quality(found)] + [("note", text) for text in found.notes]
    ends = [line for ending in found.endings for line in _ending(ending, found.version)] or [("", _never(told))]
    sections = [
        Section(f"Why {found.model} version {found.version} came", _came(told, found.run)),
        Section("What was decided about it", [*_decided(told), *_compared(told.gate)]),
        Section("What it was made of", _made_of(told)),
        Section("How it did", [*made, *_incidents(found.incidents)]),
        Section("What became of it", [*ends, *(("flagged", text) for text in told.flags)]),
    ]
    return [section for section in sections if section.lines]


def account(told: Account) -> Section:
    """Everything that is recorded of a version, a line each."""
    standing = told.stage if told.stage != "observed" else "only watched"
    lines = [("stage", standing + (f" (called {told.external} elsewhere)" if told.external else ""))]
    lines += [("champion", _reign(reign)) for reign in told.live]
    lines += [("flagged", text) for text in told.flags]
    return Section(f"{told.model} version {told.version}", [*lines, *_decided(told), *_made_of(told)])


def _by_event_time(found: ByEventTime, at: datetime) -> Lines:
    number = found.called if found.version is None else str(found.version)
    unknown = " (not registered here)" if found.version is None else ""
    beyond = at > found.archived_until
    span = f"version {number}{unknown}, {found.predictions:,} predictions of {when(found.since)} to {when(found.until)}"
    lines = [("answered, by event time", span + _between(found.before, found.after))]
    if beyond:
        lines.append(("note", f"the archive has the model's predictions until {when(found.archived_until)}"))
    if found.beside:
        others = ", ".join(f"version {name} ({count:,} predictions)" for name, count in found.beside.items())
        lines.append(("in the same hour also", others))
    return lines


def _by_clock(found: ByClock) -> Lines:
    until = "now" if found.until is None else when(found.until)
    before, after = (None if one is None else str(one) for one in (found.before, found.after))
    return [
        (
            "champion, by the system's clock",
            f"version {found.version}, from {when(found.since)} to {until}{_between(before, after)}",
        )
    ]


def _between(before: str | None, after: str | None) -> str:
    told = [f"before it version {before}" if before else "", f"after it version {after}" if after else ""]
    said = ", ".join(filter(None, told))
    return f"; {said}" if said else ""


def _reign(reign: Reign) -> str:
    until = "now" if reign.until is None else when(reign.until)
    after = "" if reign.successor is None else f", then version {reign.successor}"
    back = "; brought back" if reign.began.what == "ModelRolledBack" else ""
    reason = f": {reign.began.text}" if back and reign.began.text else ""
    return f"{when(reign.since)} to {until}{after}{back}{reason}"


def _by(deed: Deed) -> str:
    """Who did something, through whom, and whether a key proved it."""
    if deed.principal is None:
        return deed.actor
    through = "" if deed.principal.partition(":")[2] == deed.actor else deed.principal
    key = f"key {deed.credential}" if deed.credential else "proved"
    proof = "" if deed.authenticated is None else key if deed.authenticated else "no key was asked for"
    said = ", ".join(filter(None, [through, proof]))
    return f"{deed.actor} ({said})" if said else deed.actor


def _decided(told: Account) -> Lines:
    lines: Lines = [("registered", f"{when(told.registered.at)} by {_by(told.registered)}")]
    if told.policy:
        lines.append(("policy", _policy(told.policy)))
    if told.gate:
        lines.append(("gate", f"{'passed' if told.gate['passed'] else 'refused'}: {told.gate['reason']}"))
    if told.requested is not None:
        lines.append(("approval asked", f"{when(told.requested.at)} by {_by(told.requested)}"))
    for deed in told.approvals:
        comment = f": {deed.text}" if deed.text and deed.text != told.reason else ""
        agreed = f"; agreed that its file may hold {', '.join(deed.consented)}" if deed.consented else ""
        lines.append(("let by", f"{_by(deed)}, {when(deed.at)}{comment}{agreed}"))
    if told.rejected is not None:
        reason = f": {told.rejected.text}" if told.rejected.text and told.rejected.text != told.reason else ""
        lines.append(("rejected by", f"{_by(told.rejected)}, {when(told.rejected.at)}{reason}"))
    return lines


def _policy(policy: Mapping[str, Any]) -> str:
    if policy["mode"] == "auto":
        return "auto: the gate decides"
    people = policy["approvers"]
    said = f"manual: {people} {'person has' if people == 1 else 'people have'} to approve"
    said += ", none of them who asked" if policy.get("four_eyes") else ""
    return said + (f", within {policy['expires']}" if policy.get("expires") else "")


def _made_of(told: Account) -> Lines:
    data, code, environment = told.data, told.code, told.environment
    lines: Lines = []
    if data:
        span = " to ".join(str(data[name]) for name in ("first_event", "last_event") if name in data)
        rows = f"{data['rows']:,} rows" if isinstance(data.get("rows"), int) else "rows"
        labelled = f" ({data['labelled']:,} labelled)" if isinstance(data.get("labelled"), int) else ""
        lines.append(("data", f"{rows}{labelled} of {span}" if span else f"{rows}{labelled}"))
        lines += [("data, SHA-256", str(data["sha256"]))] if data.get("sha256") else []
        lines += [("table given", str(data["registered"]))] if data.get("registered") else []
        lines += [("rows chosen", text) for text in [_choice(data.get("choice"))] if text]
    if told.parent is not None:
        lines.append(("successor of", f"version {told.parent}"))
    lines += [("run", told.run)] if told.run else []
    lines += [(f"code, {name}", str(code[name])) for name in ("tree", "commit", "diff") if name in code]
    if environment:
        packages = f", {environment['packages']} packages" if "packages" in environment else ""
        python = f"Python {environment['python']}" if "python" in environment else "environment"
        lock = f", lock {environment['lock']}" if "lock" in environment else ""
        lines.append(("environment", f"{python}{packages}{lock}"))
    lines += [("artifact", told.artifact)] if told.artifact else []
    lines += [("may hold", ", ".join(told.allowed_types))] if told.allowed_types else []
    if told.origin:
        origin = told.origin
        lines.append(("imported", f"version {origin.get('version')} of the installation with key {origin.get('key')}"))
    if told.erased:
        people = "person" if told.erased == 1 else "people"
        lines.append(
            ("erased since", f"{told.erased} {people} whose rows it learnt from: on these it cannot be made again")
        )
    lines.append(("made again by", told.rebuild or f"cannot be: {told.why_not}"))
    return lines


def _choice(choice: Any) -> str:
    """Which rows were chosen to learn from, and against what."""
    if not isinstance(choice, Mapping) or not choice.get("chosen"):
        return ""
    if choice.get("why"):
        return f"{choice['chosen']}: {choice['why']}"
    tried = [
        f"{one['span']} ({one['rows']:,} rows)"
        for one in choice.get("tried", ())
        if isinstance(one, Mapping) and one.get("span") != choice["chosen"]
    ]
    since = f", from {choice['from']}" if choice.get("from") else ""
    return f"{choice['chosen']}{since}" + (f", compared with {', '.join(tried)}" if tried else "")


def _compared(gate: Mapping[str, Any]) -> Lines:
    """The gate's numbers: overall, the cost, and every segment."""
    lines = [("primary metric", text) for text in [_comparison(gate.get("primary"))] if text]
    lines += [("cost", text) for text in [_comparison(gate.get("cost"))] if text]
    for name, found in gate.get("segments", {}).items():
        if text := _comparison(found):
            lines.append((f"in {name}", text))
    if few := gate.get("segments_not_judged"):
        lines.append(("too few rows in", ", ".join(few[:SHOWN]) + (" …" if len(few) > SHOWN else "")))
    return lines + [("remark", text) for text in gate.get("remarks", ())]


def _comparison(found: Any) -> str:
    if not isinstance(found, Mapping) or found.get("champion") is None:
        return ""
    return (
        f"{found['metric']} {found['candidate']:.4f} against {found['champion']:.4f} on {found['n']:,} rows: gain "
        f"{found['gain']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
    )


def _came(told: Account, run: Run | None) -> Lines:
    if told.origin:
        return [("imported", f"by {_by(told.registered)}, {when(told.registered.at)}")]
    if told.external is not None:
        return [("appeared", f"as {told.external} in the predictions: {told.registered.text}")]
    if run is None:
        return [("registered", f"{when(told.registered.at)} by {_by(told.registered)}; no run of it is recorded here")]
    return _run(run)


def _run(run: Run) -> Lines:
    lines: Lines = [("trigger", f"{run.trigger}: {run.reason}")]
    lines.append(("asked by", f"{run.requested_by}, with what was known at {when(run.as_of)}"))
    if run.changed_at is not None:
        lines.append(("changed since", f"{when(run.changed_at)}, by the evidence"))
    return lines + ([("incident", _incident(run.incident))] if run.incident is not None else [])


def _incident(found: Incident) -> str:
    until = f" to {when(found.closed_at)}" if found.closed_at is not None else ", open"
    place = f" in {found.segment}" if found.segment else ""
    said = f"{found.severity} {found.kind} of {found.subject}{place}, {when(found.opened_at)}{until}"
    return f"{said}: {found.explanation}"


def _incidents(found: Sequence[Incident]) -> Lines:
    return [("incident", _incident(one)) for one in found[-SHOWN:]]


def _quality(found: Why) -> Iterable[str]:
    """The last windows overall, the newest first; of the newest every segment, too."""
    shown = [name for name in found.watched if any(name in window.metrics for window in found.quality)]
    for window in found.quality:
        if not window.segment:
            yield f"{_end(window)}: {_metrics(window, shown)}"
    if found.quality:
        newest = found.quality[0].window_end
        for window in found.quality:
            if window.segment and window.window_end == newest:
                yield f"{_end(window)} in {window.segment}: {_metrics(window, shown)}"


def _end(window: Window) -> str:
    return f"{window.window} to {when(window.window_end)}"


def _metrics(window: Window, shown: Iterable[str]) -> str:
    values = ((name, window.metrics.get(name)) for name in shown)
    said = ", ".join(f"{name} {value:.4f}" for name, value in values if value is not None)
    return f"{said or 'undefined'} (n = {window.n:,}, {window.coverage:.1%} labelled)"


def _ending(ending: Ending, version: int) -> Lines:
    reign, lines = ending.reign, [("champion", _reign(ending.reign))]
    if ending.how is None:
        return [*lines, ("", "it is champion now")]
    assert ending.by is not None
    assert reign.until is not None
    if ending.how == "rolled-back":
        said = f"version {ending.successor} was brought back by {_by(ending.by)}, {when(reign.until)}: {ending.by.text}"
        return [*lines, ("rolled back", said)]
    if ending.how == "observed":
        return [*lines, ("replaced", f"version {ending.successor} appeared in the predictions: {ending.by.text}")]
    lines.append(("replaced", f"by version {ending.successor}, promoted by {_by(ending.by)}, {when(reign.until)}"))
    lines += _run(ending.run) if ending.run is not None else []
    if ending.gate:
        lines.append(("gate", ending.gate["reason"]))
        if ending.gate.get("champion_version") == version:
            lines += _compared({name: ending.gate[name] for name in ("segments", "cost") if name in ending.gate})
    return lines


def _never(told: Account) -> str:
    told_of = {
        "rejected": "it was rejected and never champion",
        "approval-requested": "it waits for approval",
        "expired": "nobody decided in time; it was never champion",
        "archived": "it was archived without ever having been champion",
    }
    return told_of.get(told.stage, f"it is {told.stage} and was never champion")
