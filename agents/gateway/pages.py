"""The page and its parts: HTML from the board and the registry. Parts are fetched again when they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from agents.gateway import access, views
from agents.gateway.access import may, may_everywhere, visit
from agents.gateway.api import Sought, champion_of, decide_matching, listed_models, matching, visible_models
from agents.gateway.context import Context
from agents.gateway.logic import ModelBoard, ordered_windows
from agents.provenance import words
from agents.registry import drawing
from agents.registry.batch import Outcome
from agents.registry.lineage import Lineage
from agents.registry.search import Search
from agents.registry.tags import sought_tags
from schemas.errors import ConfigurationError, DatabaseUnavailableError, DriftlineError, NotFoundError

DRAWN = ("dataset", "run", "commit")
PARTS = ("tiles", "incidents", "versions", "activity", "drift", "accounting")
MODELS_A_PAGE = 500
QUESTIONS: dict[str, dict[str, Any]] = {
    "approve": {
        "verb": "Approve",
        "text": "Serving switches to it between two batches as soon as it is promoted.",
        "why": "Comment (optional)",
        "reason_required": False,
        "dangerous": False,
    },
    "reject": {
        "verb": "Reject",
        "text": "The champion goes on. The version stays in the history with your reason.",
        "why": "Why?",
        "reason_required": True,
        "dangerous": True,
    },
    "rollback": {
        "verb": "Roll back",
        "text": "Serving switches back to this version between two batches.",
        "why": "Why?",
        "reason_required": True,
        "dangerous": True,
    },
    "flag": {
        "verb": "Flag as faulty",
        "text": "It and what descends from it can be neither approved nor promoted nor brought back. "
        "What is live goes on, with an incident, until it is rolled back.",
        "why": "What is wrong with it?",
        "reason_required": True,
        "dangerous": True,
    },
    "withdraw-flag": {
        "verb": "Withdraw the flag",
        "text": "It and what descends from it can be approved and promoted again.",
        "why": "Why is it sound?",
        "reason_required": True,
        "dangerous": False,
    },
}
TITLES = {
    "approve": "Approve version {}?",
    "reject": "Reject version {}?",
    "rollback": "Roll back to version {}?",
    "flag": "Flag version {} as faulty?",
    "withdraw-flag": "Withdraw the flag of version {}?",
}


def router(context: Context, templates: Environment) -> APIRouter:
    """Routes of the page."""
    gate = context.gate
    routes = APIRouter(include_in_schema=False, dependencies=[Depends(may(gate, "viewer"))])
    approver = [Depends(may(gate, "approver"))]
    show = _Renderer(context, templates)

    @routes.get("/")
    def start() -> Response:
        models, _ = visible_models(context, Search(limit=2))
        return RedirectResponse(f"/models/{quote(models[0].model)}" if len(models) == 1 else "/models", 307)

    @routes.get("/models")
    def models(sought: Sought) -> HTMLResponse:
        listed, after = listed_models(context, msgspec.structs.replace(sought, limit=sought.limit or MODELS_A_PAGE))
        waiting, more = visible_models(context, Search(alias="challenger", limit=100))
        with context.board.use() as board:
            shared = board.fleet.listed_incidents()[:20] if visit().principal.everywhere("viewer") else []
        asked = {"match": sought.match, "tag": [k if v is None else f"{k}={v}" for k, v in sought.tags.items()]}
        asked |= {"owner": sought.owner, "team": sought.team, "alias": sought.alias}
        return show.page(
            "models.html",
            models=listed,
            asked=asked,
            next=f"/models?{urlencode({**asked, 'after': after}, doseq=True)}" if after else "",
            waiting=[facts.model for facts in waiting],
            more_waiting=bool(more),
            incidents=shared,
            **show.accounting(),
        )

    @routes.post("/approvals", dependencies=approver)
    def approve_many(
        match: Annotated[str, Form()] = "",
        tag: Annotated[str, Form()] = "",
        comment: Annotated[str, Form()] = "",
        actor: Annotated[str, Form()] = "",
        *,
        allow_type: Annotated[list[str] | None, Form()] = None,
        shown: Annotated[bool, Form()] = False,
    ) -> HTMLResponse:
        """Approve all that waits; where files may hold new types, show these first, to be agreed to by name."""
        try:
            search, name = _fleet(match, tag), access.actor(actor.strip(), "")
            if not shown and (asked := [one for one in matching(context, "approve", search) if one.new_types]):
                form = {"match": match, "tag": tag, "comment": comment, "actor": actor}
                return show.page("parts/consents.html", types=_by_type(asked), asked=len(asked), form=form)
            found = decide_matching(context, "approve", search, name, comment, consented=allow_type or ())
        except DriftlineError as error:
            return show.outcomes(match, tag, problem=error)
        return show.outcomes(match, tag, found)

    @routes.post("/rollbacks", dependencies=approver)
    def roll_back_many(
        match: Annotated[str, Form()] = "",
        tag: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "",
        actor: Annotated[str, Form()] = "",
        confirm: Annotated[int | None, Form()] = None,
    ) -> HTMLResponse:
        """Show what would be rolled back, and with `confirm` (how many that were) do it."""
        try:
            search, name = _fleet(match, tag), access.actor(actor.strip(), "")
            if not reason.strip():
                raise ConfigurationError("say why", where="reason", remedy="It is kept in the audit.")
            if confirm is None:
                form = {"match": match, "tag": tag, "reason": reason, "actor": actor}
                return show.page("parts/rollbacks.html", would=matching(context, "rollback", search), form=form)
            found = decide_matching(context, "rollback", search, name, reason, confirm)
        except DriftlineError as error:
            return show.outcomes(match, tag, problem=error)
        return show.outcomes(match, tag, found)

    @routes.get("/parts/accounting")
    def accounting() -> HTMLResponse:
        return show.page("parts/accounting.html", **show.accounting())

    @routes.get("/models/{model}")
    def model_page(model: str) -> HTMLResponse:
        names, problem = show.names(model)
        values: dict[str, Any] = {"model": model, "names": names, "problem": problem}
        for part in PARTS:
            values |= show.part(part, model)
        return show.page("model.html", **values, **show.selectors(model))

    @routes.get("/models/{model}/lineage.svg")
    def picture(model: str, version: int = 0) -> Response:
        found = context.registry.lineage(model, version or None)
        return Response(drawing.svg(found), media_type="image/svg+xml")

    @routes.get("/lineage", dependencies=[Depends(may_everywhere(gate, "viewer"))])
    def lineage_page(kind: str = "dataset", name: str = "") -> HTMLResponse:
        values: dict[str, Any] = {"kinds": DRAWN, "kind": kind, "name": name.strip(), "found": None, "problem": ""}
        if values["name"]:
            try:
                values["found"] = found = _drawn(kind, values["name"])
                values["picture"] = drawing.data_url(found)
            except DriftlineError as error:
                values["problem"] = f"{error.what} {error.remedy}".strip()
        return show.page("lineage.html", **values)

    @routes.get("/lineage.svg", dependencies=[Depends(may_everywhere(gate, "viewer"))])
    def picture_of(kind: str, name: str) -> Response:
        return Response(drawing.svg(_drawn(kind, name.strip())), media_type="image/svg+xml")

    def _drawn(kind: str, name: str) -> Lineage:
        if kind not in DRAWN:
            raise NotFoundError(f"{kind!r} has no lineage", where="page", remedy=f"choose one of {', '.join(DRAWN)}")
        return context.registry.lineage_of(kind, name)

    @routes.get("/models/{model}/parts/{part}")
    def part(model: str, part: str, statistic: str = "") -> Response:
        if part not in PARTS:
            return HTMLResponse("no such part", status_code=404)
        values = show.part(part, model, statistic)
        return show.page(f"parts/{part}.html", model=model, primary=show.primary(model), **values)

    @routes.get("/models/{model}/versions/{version}/why")
    def why(model: str, version: int) -> Response:
        return show.why(model, version)

    @routes.get("/models/{model}/versions/{version}/{action}", dependencies=approver)
    def question(model: str, version: int, action: str) -> Response:
        if action not in QUESTIONS:
            return HTMLResponse("no such action", status_code=404)
        return show.question(model, version, action)

    @routes.post("/models/{model}/versions/{version}/{action}", dependencies=approver)
    def decide(
        model: str,
        version: int,
        action: str,
        *,
        actor: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "",
        seen: Annotated[str, Form()] = "",
        allow_type: Annotated[list[str] | None, Form()] = None,
    ) -> Response:
        if action not in QUESTIONS:
            return HTMLResponse("no such action", status_code=404)
        who = visit().principal
        try:
            name = access.actor(actor.strip(), "")
            if action == "approve":
                context.registry.approve(
                    *(model, version),
                    by=who,
                    actor=name,
                    comment=reason,
                    artifact=seen or None,
                    consented=allow_type or (),
                )
            elif action == "reject":
                context.registry.reject(model, version, by=who, actor=name, reason=reason)
            elif action == "flag":
                context.registry.flag(model, version, by=who, actor=name, reason=reason)
            elif action == "withdraw-flag":
                context.registry.withdraw_flag(model, version, by=who, actor=name, reason=reason)
            else:
                expected = int(seen) if seen.isdigit() else None
                context.registry.rollback(model, version, by=who, actor=name, reason=reason, expected=expected)
        except DriftlineError as error:
            return show.question(model, version, action, refused=Refused(error, actor, reason))
        return Response(status_code=204, headers={"HX-Trigger": "decided"})

    return routes


def _fleet(match: str, tag: str) -> Search:
    """Models by pattern, by tag, or by both. Raises `ConfigurationError`."""
    pattern, tags = match.strip(), sought_tags([tag])
    if not pattern and not tags:
        remedy = "By a pattern, as bus-*, or a tag, as city=nyc."
        raise ConfigurationError("no models are named", where="match", remedy=remedy)
    return Search(match=pattern or "*", tags=tags)


def _by_type(asked: Sequence[Outcome]) -> dict[str, list[str]]:
    """Versions by the types that their files may hold and the champions' may not."""
    found: dict[str, list[str]] = {}
    for one in asked:
        for name in one.new_types:
            found.setdefault(name, []).append(f"{one.model} {one.version}")
    return dict(sorted(found.items()))


class Refused(NamedTuple):
    """A decision that the registry did not take, with what the person had written."""

    error: DriftlineError
    actor: str
    reason: str


class _Renderer:
    """Values of the parts, and templates filled with them."""

    def __init__(self, context: Context, templates: Environment) -> None:
        self._context = context
        self._templates = templates

    def page(self, template: str, **values: Any) -> HTMLResponse:
        found = visit()
        proven = found.principal.name if found.principal.authenticated else ""
        values = {"who": proven, "csrf": found.csrf, **values}
        return HTMLResponse(self._templates.get_template(template).render(**values))

    def outcomes(
        self, match: str, tag: str, found: Sequence[Outcome] = (), problem: DriftlineError | None = None
    ) -> HTMLResponse:
        """What became of a decision on many, or why it was not taken."""
        said = f"{problem.what}. {problem.remedy}" if problem is not None else ""
        named = " ".join(filter(None, (match.strip(), tag.strip())))
        return self.page("parts/outcomes.html", outcomes=found, match=named, problem=said)

    def names(self, model: str) -> tuple[list[str], str]:
        """Names for the picker; a word of warning instead of a failure while the database is down.

        Raises
        ------
        NotFoundError
            No such model.
        """
        try:
            champion_of(self._context, model)
            listed, _ = visible_models(self._context, Search(limit=MODELS_A_PAGE))
            return sorted({model, *(facts.model for facts in listed)}), ""
        except DatabaseUnavailableError as error:
            return [model], f"The registry does not answer: versions are missing here. {error.remedy}"

    def primary(self, model: str) -> str:
        try:
            return self._context.registry.specification(model).metrics.primary
        except DriftlineError:
            with self._context.board.use() as board:
                return next(iter(board.model(model).metrics()), "") if model in board.models else ""

    def selectors(self, model: str) -> dict[str, Any]:
        """Choices of the chart's controls: what the specification watches, and what was seen beside it."""
        primary, watched, named = self.primary(model), [], []
        try:
            spec = self._context.registry.specification(model)
            watched, named = spec.watched, [*spec.time_windows, *spec.count_windows]
        except DriftlineError:
            pass  # the page shows the series without the registry too
        with self._context.board.use() as board:
            found = board.models.get(model) or ModelBoard(model)
            windows = ordered_windows({*named, *found.windows()})
            return {
                "primary": primary,
                "metrics": list(dict.fromkeys([*watched, *found.metrics()])) or [primary],
                "windows": windows or [""],
                "window": views.choose_window(found.windows() or windows),
                "segments": list(dict.fromkeys(["", *found.segments()])),
            }

    def accounting(self) -> dict[str, Any]:
        with self._context.board.use() as board:
            return {"accounting": views.accounting(board.accounting(), len(board.totals))}

    def part(self, part: str, model: str, statistic: str = "") -> dict[str, Any]:
        """Values of one part of a model's page."""
        if part == "versions":
            return self._versions(model)
        if part == "accounting":
            return self.accounting()
        primary = self.primary(model) if part == "tiles" else ""
        with self._context.board.use() as board:
            found = board.models.get(model) or ModelBoard(model)
            window = views.choose_window(found.windows())
            if part == "tiles":
                open_now = board.open_incidents_of(model)
                totals = board.accounting()
                shown = views.tiles(found, primary=primary, window=window, totals=totals, open_incidents=open_now)
                return {"tiles": shown}
            if part == "incidents":
                return {"incidents": board.incidents_of(model)[:50]}
            if part == "activity":
                return {"activity": list(found.activity)[:60]}
            names = views.statistics(found)
            wanted = statistic if statistic in names else views.choose_statistic(names)
            drift_window = views.choose_window(found.drift_windows())
            rows = views.drift_rows(found, statistic=wanted, window=drift_window, version=found.champion)
            return {"drift": rows, "statistics": names or [wanted], "statistic": wanted}

    def _versions(self, model: str) -> dict[str, Any]:
        try:
            champion = champion_of(self._context, model)
            rows = views.version_rows(self._context.registry.versions(model), champion)
        except DatabaseUnavailableError:
            rows = []
        return {"versions": rows}

    def why(self, model: str, version: int) -> HTMLResponse:
        """What is recorded of a version, in words."""
        try:
            sections, problem = words.why(self._context.provenance.why(model, version)), ""
        except DriftlineError as error:
            sections, problem = [], f"{error.what}. {error.remedy}"
        return self.page("parts/why.html", sections=sections, problem=problem, model=model, version=version)

    def question(self, model: str, version: int, action: str, *, refused: Refused | None = None) -> HTMLResponse:
        """The dialog of a decision; with what went wrong where it was refused.

        Notes
        -----
        The form carries what the person has seen (the artifact to approve, the champion to replace): where that has
        changed in between, the registry refuses with a conflict.
        """
        champion, seen, new_types = champion_of(self._context, model), "", list[str]()
        if action == "rollback":
            seen = str(champion or "")
        elif action == "approve":
            found = {row.version: row for row in views.version_rows(self._context.registry.versions(model), champion)}
            if version in found:
                seen, new_types = found[version].artifact, list(found[version].new_types)
        error = refused.error if refused else None
        return self.page(
            "parts/decision.html",
            **QUESTIONS[action],
            title=TITLES[action].format(version),
            seen=seen,
            new_types=new_types,
            action=f"/models/{quote(model)}/versions/{version}/{action}",
            problem="\n".join(filter(None, (error.what, error.remedy))) if error else "",
            actor=refused.actor if refused else "",
            reason=refused.reason if refused else "",
        )
