"""The data behind the page as JSON, and the decisions people take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from agents.gateway import formats, views
from agents.gateway.access import actor, bearer, client, may, may_everywhere, session_cookie, visit
from agents.gateway.context import Context
from agents.gateway.logic import ModelBoard, chart, drift_table, newest_value
from agents.gateway.views import ModelFacts
from agents.registry.batch import Chosen, Outcome, What, confirmed, listed
from agents.registry.search import Search
from agents.registry.tags import sought_tags
from agents.subjects.naming import subject_text
from schemas.errors import AccessError, ConfigurationError, DatabaseUnavailableError

LOOK_EVERY_S = 0.5
ASK_AGAIN_LOOKS = 20


def _asks(request: Request) -> tuple[str | None, str | None, str]:
    return bearer(request.headers), session_cookie(request.headers), client(request.scope)


Asks = Annotated[tuple[str | None, str | None, str], Depends(_asks)]
"""What who asks showed: a stream outlives the look at it."""


def json_response(value: object, status: int = 200) -> Response:
    """Structs and datetimes as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def router(context: Context) -> APIRouter:
    """Routes under ``/api``."""
    gate = context.gate
    routes = APIRouter(prefix="/api", tags=["data"], dependencies=[Depends(may(gate, "viewer"))])
    approver = [Depends(may(gate, "approver"))]

    @routes.get("/models")
    def models(sought: Sought) -> Response:
        """Registered models with their champion, newest quality and open incidents; see `searched`."""
        found, after = listed_models(context, sought)
        return json_response({"models": found, "next": after or None})

    @routes.get("/versions")
    def all_versions(sought: Sought) -> Response:
        """Versions of many models, searched for as models are; `stage` too, and tags are the versions'."""
        who = visit().principal
        found, after = context.registry.find_versions(sought, lambda names: gate.visible(who, names))
        return json_response({"versions": found, "next": after or None})

    @routes.post("/models/{model}/tags", dependencies=[Depends(may(gate, "producer"))])
    def tag_model(model: str, decision: Annotated[dict[str, Any], Body()]) -> Response:
        """Set and remove tags of a model: ``{"tags": {key: value}, "remove": [key], "actor"}``."""
        return _tag(context, model, None, decision)

    @routes.post("/models/{model}/versions/{version}/tags", dependencies=[Depends(may(gate, "producer"))])
    def tag_version(model: str, version: int, decision: Annotated[dict[str, Any], Body()]) -> Response:
        """Set and remove tags of a version, as of a model."""
        return _tag(context, model, version, decision)

    @routes.get("/models/{model}/versions")
    def versions(model: str, as_of: datetime | None = None) -> Response:
        """Versions of a model, the newest first; as of a moment where `as_of` is given."""
        found = sorted(context.registry.versions(model, _aware(as_of)), key=lambda v: -v.version)
        return json_response({"model": model, "champion": champion_of(context, model), "versions": found})

    @routes.get("/models/{model}/live")
    def live(model: str, at: datetime | None = None) -> Response:
        """Which version was live at a moment (now), by clock and by event time, who let it, what it was made of."""
        return json_response(context.provenance.live(model, _aware(at)))

    @routes.get("/models/{model}/versions/{version}/why")
    def why(model: str, version: int) -> Response:
        """Why a version came, what was decided about it with which numbers, how it did, and why it went."""
        return json_response(context.provenance.why(model, version))

    @routes.get("/models/{model}/options")
    def options(model: str) -> Response:
        """Metrics, windows and segments that have been seen."""
        with context.board.use() as board:
            found = board.models.get(model) or ModelBoard(model)
            metrics, windows, segments = found.metrics(), found.windows(), found.segments()
        return json_response(
            {
                "metrics": [{"value": name, "text": name} for name in metrics],
                "windows": [{"value": name, "text": formats.window(name)} for name in windows],
                "segments": [{"value": name, "text": name or "overall"} for name in segments],
            }
        )

    @routes.get("/models/{model}/series")
    def series(model: str, metric: str, window: str, segment: str = "") -> Response:
        """Lines of one chart, with the incidents and swaps to draw over them."""
        with context.board.use() as board:
            found = board.models.get(model) or ModelBoard(model)
            lines = chart(found, metric, window, segment)
            incidents = [
                {
                    "from": alert.opened_at.timestamp(),
                    "to": alert.closed_at.timestamp() if alert.closed_at else None,
                    "severity": alert.severity,
                    "title": alert.title,
                }
                for alert in sorted(board.incidents_of(model), key=lambda a: a.opened_at)
            ]
            swaps = [{"at": at_ms / 1000, "version": version} for at_ms, version in found.promotions]
        body = {"model": model, "metric": metric, "window": window, "segment": segment}
        return json_response({**body, "lines": lines, "incidents": incidents, "swaps": swaps})

    @routes.get("/models/{model}/drift")
    def drift(model: str, window: str, statistic: str = "psi", version: int | None = None) -> Response:
        """Distance of every subject from the reference, the farthest first."""
        with context.board.use() as board:
            found = board.models.get(model) or ModelBoard(model)
            rows = drift_table(found, window, version, statistic)
        return json_response({"model": model, "window": window, "statistic": statistic, "subjects": rows})

    @routes.get("/models/{model}/incidents")
    def incidents(model: str, status: Annotated[str, Query(pattern="^(open|all)$")] = "all") -> Response:
        """Incidents, those of many models that name this one too, open ones first; ``?status=open``: only these."""
        with context.board.use() as board:
            alerts = board.open_incidents_of(model) if status == "open" else board.incidents_of(model)
        return json_response({"model": model, "incidents": alerts})

    @routes.get("/incidents", dependencies=[Depends(may_everywhere(gate, "viewer"))])
    def shared_incidents(status: Annotated[str, Query(pattern="^(open|all)$")] = "all") -> Response:
        """Incidents of many models, open ones first."""
        with context.board.use() as board:
            alerts = board.fleet.open_incidents() if status == "open" else board.fleet.listed_incidents()
        return json_response({"incidents": alerts})

    @routes.get("/models/{model}/activity")
    def activity(model: str) -> Response:
        """What the registry, runs and serving did, the newest first."""
        with context.board.use() as board:
            found = [entry._asdict() for entry in (board.models.get(model) or ModelBoard(model)).activity]
        return json_response({"model": model, "activity": found})

    @routes.get("/accounting")
    def accounting() -> Response:
        """Totals of the join, summed over the partitions."""
        with context.board.use() as board:
            totals, partitions = board.accounting(), len(board.totals)
        return json_response({"partitions": partitions, "totals": totals})

    @routes.get("/changes")
    async def all_changes(asks: Asks) -> EventSourceResponse:
        """Server-sent events: what changed on the whole board."""
        return EventSourceResponse(_changes(context, None, asks), ping=15)

    @routes.get("/models/{model}/changes")
    async def model_changes(model: str, asks: Asks) -> EventSourceResponse:
        """Server-sent events ``changes``: ``{"changed": [part], "clock_ms"}``, at most two a second."""
        return EventSourceResponse(_changes(context, model, asks), ping=15)

    @routes.post("/models/{model}/versions/{version}/approve", dependencies=approver)
    def approve(model: str, version: int, decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Approve a version: ``{"actor", "comment", "artifact", "allow_types"}``. 409: decided already.

        `allow_types`: what its file may hold beside the defaults and the champion's types; 409 where one is not named.
        """
        body = decision or {}
        artifact = _text(body, "artifact") or None
        comment = _text(body, "comment")
        who = visit().principal
        context.registry.approve(
            *(model, version),
            by=who,
            actor=_actor(body),
            comment=comment,
            artifact=artifact,
            consented=_texts(body, "allow_types"),
        )
        return JSONResponse({"model": model, "version": version, "done": "approved"})

    @routes.post("/models/{model}/versions/{version}/reject", dependencies=approver)
    def reject(model: str, version: int, decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Reject a version: ``{"actor", "reason"}``."""
        body = decision or {}
        reason = _text(body, "reason") or "no reason given"
        context.registry.reject(model, version, by=visit().principal, actor=_actor(body), reason=reason)
        return JSONResponse({"model": model, "version": version, "done": "rejected"})

    @routes.post("/models/{model}/rollback", dependencies=approver)
    def rollback(model: str, decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Bring an earlier version back: ``{"actor", "reason", "to", "expected"}``; without `to` the one before."""
        body = decision or {}
        reason = _text(body, "reason") or "no reason given"
        to, expected = _number(body, "to"), _number(body, "expected")
        who = visit().principal
        version = context.registry.rollback(model, to, by=who, actor=_actor(body), reason=reason, expected=expected)
        return JSONResponse({"model": model, "version": version, "done": "rolled back"})

    @routes.post("/models/{model}/versions/{version}/request-approval", dependencies=[Depends(may(gate, "producer"))])
    def request_approval(
        model: str, version: int, decision: Annotated[dict[str, Any] | None, Body()] = None
    ) -> Response:
        """Ask people again where the first question lapsed: ``{"actor"}``."""
        who = visit().principal
        stage = context.registry.request_approval(model, version, by=who, actor=_actor(decision or {}))
        return JSONResponse({"model": model, "version": version, "stage": stage})

    @routes.post("/models/{model}/versions/{version}/archive", dependencies=approver)
    def archive(model: str, version: int, decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Take a version out of use for good: ``{"actor", "reason"}``."""
        body, who = decision or {}, visit().principal
        reason = _text(body, "reason") or "no reason given"
        stage = context.registry.archive(model, version, by=who, actor=_actor(body), reason=reason)
        return JSONResponse({"model": model, "version": version, "stage": stage})

    @routes.post("/approvals", dependencies=approver)
    def approve_many(decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Approve all that waits, of models that match.

        ``{"match", "tags", "comment", "actor", "allow_types", "dry_run"}``, `allow_types` as of one version.
        """
        return _many(context, "approve", "approved", decision or {})

    @routes.post("/rejections", dependencies=approver)
    def reject_many(decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Reject all that waits, of models that match: ``{"match", "tags", "reason", "actor", "dry_run"}``."""
        return _many(context, "reject", "rejected", decision or {})

    @routes.post("/rollbacks", dependencies=approver)
    def roll_back_many(decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Roll back all models that match: ``{"match", "tags", "reason", "actor", "confirm"}``.

        Without `confirm` nothing is done, and the answer is what would be; `confirm` is how many that are. 409: it is
        another number meanwhile.
        """
        return _many(context, "rollback", "rolled_back", decision or {})

    @routes.get("/flags")
    def flags(model: str | None = None) -> Response:
        """Flags in force: versions found faulty, and what descends from them."""
        found = context.registry.flags(model)
        seen = set(gate.visible(visit().principal, {each.model for each in found}))
        return json_response({"flags": [each for each in found if each.model in seen]})

    @routes.post("/models/{model}/versions/{version}/flag", dependencies=approver)
    def flag(model: str, version: int, decision: Annotated[dict[str, Any], Body()]) -> Response:
        """Flag a version that was found faulty, and what descends from it: ``{"reason", "actor"}``."""
        reason, who = _reason(decision), visit().principal
        done = context.registry.flag(model, version, by=who, actor=_actor(decision), reason=reason)
        return json_response({"flagged": done})

    @routes.post("/models/{model}/versions/{version}/withdraw-flag", dependencies=approver)
    def withdraw_flag(model: str, version: int, decision: Annotated[dict[str, Any], Body()]) -> Response:
        """Withdraw the flag of a version, or those that it inherited: ``{"reason", "actor"}``."""
        reason, who = _reason(decision), visit().principal
        done = context.registry.withdraw_flag(model, version, by=who, actor=_actor(decision), reason=reason)
        return json_response({"withdrawn": done})

    @routes.get("/reviews")
    def reviews(done: bool = False) -> Response:
        """Roll-backs that nobody has looked at since; with `done` the others too."""
        found = context.registry.reviews(done=done)
        seen = gate.visible(visit().principal, {each.model for each in found})
        return json_response({"reviews": [each for each in found if each.model in seen]})

    @routes.post("/reviews/{number}", dependencies=approver)
    def review(number: int, decision: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Say that a roll-back was looked at, and what was found: ``{"actor", "comment"}``."""
        body, who = decision or {}, visit().principal
        for each in context.registry.reviews(done=True):
            if each.id == number:
                gate.need(who, "approver", each.model)
        comment = _text(body, "comment")
        if not comment:
            raise ConfigurationError("say what was found", where="comment", remedy='{"comment": "…"}')
        return json_response(context.registry.review(number, by=who, actor=_actor(body), comment=comment))

    @routes.post("/erasures", dependencies=[Depends(may_everywhere(gate, "admin"))])
    def erase(decision: Annotated[dict[str, Any], Body()]) -> Response:
        """Destroy a person's key for good, as `driftline erase` does: ``{"subject", "dry_run", "actor"}``."""
        subject, dry_run = decision.get("subject"), decision.get("dry_run", False)
        named = None if isinstance(subject, bool | dict | list) else subject_text(subject)
        if named is None:
            raise ConfigurationError("say who", where="subject", remedy='{"subject": "…"}, as the column has it')
        if not isinstance(dry_run, bool):
            raise ConfigurationError("is true or false", where="dry_run", remedy="nobody was erased; ask again")
        who = visit().principal
        return json_response(context.erase(named, who, actor=_actor(decision), dry_run=dry_run))

    return routes


def champion_of(context: Context, model: str) -> int | None:
    """Champion as the registry has it.

    Raises
    ------
    NotFoundError
        No such model.
    """
    return context.registry.model(model).champion


def decide_matching(  # noqa: PLR0917
    context: Context,
    what: What,
    search: Search,
    actor: str,
    reason: str,
    confirm: int | None = None,
    consented: Collection[str] = (),
) -> list[Outcome]:
    """Decide on all that fits and that who asks may decide on; roll-backs only as many as were confirmed."""
    who = visit().principal

    def allowed(model: str) -> bool:
        try:
            context.gate.need(who, "approver", model)
        except AccessError:
            return False
        return True

    found = context.registry.chosen(what, search)
    if confirm is not None:
        found = confirmed(_seen(context, found), confirm)
    return context.registry.decide_all(
        what, found, by=who, actor=actor, reason=reason, allowed=allowed, consented=consented
    )


def matching(context: Context, what: What, search: Search) -> list[Outcome]:
    """What a decision on many would be about, as far as who asks may look at it."""
    return listed(_seen(context, context.registry.chosen(what, search)), what)


def _seen(context: Context, found: list[Chosen]) -> list[Chosen]:
    """What who asks may look at."""
    seen = context.gate.visible(visit().principal, {one.model for one in found})
    return [one for one in found if one.model in seen]


def _many(context: Context, what: What, done: str, body: dict[str, Any]) -> Response:
    pattern, tags = _text(body, "match"), body.get("tags") or {}
    if not isinstance(tags, dict):
        raise ConfigurationError("tags are an object", where="tags", remedy='{"city": "nyc"}')
    if not pattern and not tags:
        raise ConfigurationError("name the models", where="match", remedy='a pattern, as "bus-*"; "*" for all; or tags')
    wanted = {str(key): None if value is None else str(value) for key, value in tags.items()}
    search, confirm = Search(match=pattern or "*", tags=wanted), _number(body, "confirm")
    if body.get("dry_run") or (what == "rollback" and confirm is None):
        return json_response({"would": matching(context, what, search)})
    reason = _text(body, "comment") if what == "approve" else _text(body, "reason") or "no reason given"
    consented = _texts(body, "allow_types")
    found = decide_matching(context, what, search, _actor(body), reason, confirm, consented)
    refused = sum(outcome.problem is not None for outcome in found)
    return json_response({done: len(found) - refused, "refused": refused, "versions": found})


def searched(  # noqa: PLR0917 - the query of a URL
    match: str = "*",
    tag: Annotated[list[str] | None, Query()] = None,
    owner: str = "",
    team: str = "",
    alias: str = "",
    stage: str = "",
    as_of: datetime | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> Search:
    """What a URL asks for: ``?match=bus-*&tag=city=nyc&owner=ann&alias=challenger&as_of=T&limit=100&after=bus-7``."""
    return Search(
        match=match or "*",
        tags=sought_tags(tag or ()),
        owner=owner,
        team=team,
        alias=alias,
        stage=stage,
        as_of=_aware(as_of),
        after=after,
        limit=limit,
    )


def _aware(moment: datetime | None) -> datetime | None:
    """A moment without a zone is UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


Sought = Annotated[Search, Depends(searched)]


def visible_models(context: Context, search: Search) -> tuple[list[ModelFacts], str]:
    """Models of the registry that are looked for and that who asks may look at, and the name to go on after."""
    who = visit().principal
    return context.registry.find_models(search, lambda names: context.gate.visible(who, names))


def listed_models(context: Context, search: Search) -> tuple[list[dict[str, Any]], str]:
    """As `visible_models`, with what the board knows of them."""
    facts, after = visible_models(context, search)
    listed = []
    with context.board.use() as board:
        for model in facts:
            found = board.models.get(model.model) or ModelBoard(model.model)
            metric = next(iter(found.metrics()), "")
            newest = newest_value(found, metric, views.choose_window(found.windows())) if metric else None
            listed.append(
                {
                    "model": model.model,
                    "task": model.task,
                    "champion": model.champion,
                    "challenger": model.challenger,
                    "versions": model.versions,
                    "owner": model.owner,
                    "team": model.team,
                    "tags": model.tags,
                    "metric": metric,
                    "quality": newest[0].values[metric] if newest else None,
                    "open_incidents": len(board.open_incidents_of(model.model)),
                    "event_time_ms": found.clock_ms(),
                }
            )
    return listed, after


def _tag(context: Context, model: str, version: int | None, body: dict[str, Any]) -> Response:
    tags, removed = body.get("tags") or {}, body.get("remove") or []
    if not isinstance(tags, dict) or not isinstance(removed, list):
        raise ConfigurationError("tags are an object, what to remove is a list", where="body")
    given, gone = {str(key): str(value) for key, value in tags.items()}, [str(key) for key in removed]
    now = context.registry.tag(model, version, given, gone, by=visit().principal, actor=_actor(body))
    return json_response({"model": model, "version": version, "tags": now})


async def _changes(context: Context, model: str | None, asks: Asks) -> AsyncIterator[ServerSentEvent]:
    seen: dict[str, int] = {}
    first = True
    looks = 0
    while not context.stop.is_set():
        looks += 1
        if looks % ASK_AGAIN_LOOKS == 0 and not await run_in_threadpool(_still, context, model, asks):
            return  # the key was revoked, the session is over
        now = context.board.changes(model)
        changed = [name for name, value in now.items() if seen.get(name) != value]
        if changed or first:
            # The page has just been drawn from the board: its first event only says that the line is up.
            with context.board.use() as board:
                clock = board.models[model].clock_ms() if model in board.models else None
            body = {"changed": [] if first else changed, "clock_ms": clock}
            yield ServerSentEvent(json.dumps(body), event="changes")
            seen, first = now, False
        await asyncio.sleep(LOOK_EVERY_S)


def _still(context: Context, model: str | None, asks: Asks) -> bool:
    """Whether who opened a stream may go on reading it."""
    try:
        context.gate.need(context.gate.visit(*asks).principal, "viewer", model)
    except AccessError:
        return False
    except DatabaseUnavailableError:
        return True
    return True


def _actor(body: dict[str, Any]) -> str:
    return actor(_text(body, "actor"), "http")


def _reason(body: dict[str, Any]) -> str:
    """Raises `ConfigurationError` where none is given."""
    if reason := _text(body, "reason"):
        return reason
    raise ConfigurationError("say why", where="reason", remedy='{"reason": "…"}')


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    return value.strip()[:1000] if isinstance(value, str) else ""


def _texts(body: dict[str, Any], name: str) -> list[str]:
    """Raises `ConfigurationError` where it is no list of texts."""
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigurationError("is no list of names", where=name, remedy=f'{{"{name}": ["package.module.Type"]}}')
    return value


def _number(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
