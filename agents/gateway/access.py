"""Who asks: every request is somebody's, but for those that tell nothing. Keys in headers, sessions in a cookie.

Notes
-----
The cookie is HttpOnly and SameSite=Strict, and a change it vouches for must carry a value that only our own pages can
read (header ``X-CSRF-Token``): a page of another site can neither send the cookie nor read the value.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from contextvars import ContextVar
from http.cookies import CookieError, SimpleCookie
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agents.access.gate import SESSION, Visit
from agents.access.logic import Principal, Role, acting_name
from agents.gateway.context import Context, GatePort
from agents.gateway.security import SAFE_METHODS
from schemas.errors import AccessError, DatabaseUnavailableError, DriftlineError, ForbiddenError, ThrottledError

COOKIE = "driftline_session"
PUBLIC = ("/livez", "/readyz", "/login", "/static/")
"""Paths that need nobody's key: they tell nothing of models."""

_visit: ContextVar[Visit] = ContextVar("visit")


def visit() -> Visit:
    """Whose request this is."""
    return _visit.get()


def somebody() -> Visit | None:
    """As `visit`; None where nobody was asked for a key."""
    return _visit.get(None)


def actor(claimed: str, default: str) -> str:
    """The actor to record. Raises `ForbiddenError` where a key of one name acts in another."""
    return acting_name(visit().principal, claimed, default)


def may(gate: GatePort, role: Role) -> Callable[[Request], Principal]:
    """A route's dependency: who asks may act as `role` on the model in the path, or on any where it names none."""

    def check(request: Request) -> Principal:
        principal = visit().principal
        gate.need(principal, role, request.path_params.get("model"))
        return principal

    return check


def may_everywhere(gate: GatePort, role: Role) -> Callable[[], Principal]:
    """A route's dependency: who asks may act as `role` on all models."""

    def check() -> Principal:
        principal = visit().principal
        gate.need(principal, role, "*")
        return principal

    return check


class Doorkeeper:
    """ASGI middleware: finds out who asks, or refuses with 401, 403 or 429."""

    def __init__(self, app: ASGIApp, *, gate: GatePort) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _public(scope):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        token, cookie = bearer(headers), session_cookie(headers)
        try:
            found = await run_in_threadpool(self._gate.visit, token, cookie, client(scope))
            csrf = headers.get("x-csrf-token", "")
            if scope["method"] not in SAFE_METHODS and found.csrf and not hmac.compare_digest(csrf, found.csrf):
                raise ForbiddenError(
                    "a change that a cookie vouches for needs the page's token",
                    where="X-CSRF-Token",
                    remedy="reload the page and try again; programs send `Authorization: Bearer dlk_…` instead",
                )
        except (AccessError, DatabaseUnavailableError) as error:
            await self._refusal(scope, headers, error)(scope, receive, send)
            return
        _visit.set(found)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers, error: DriftlineError) -> Response:
        status, more = answer_to(error)
        path = scope["path"]
        if status == 401 and not path.startswith("/api/"):
            login = f"/login?next={quote(path)}"
            if "hx-request" in headers:
                more["hx-redirect"] = "/login"
            elif "text/html" in headers.get("accept", ""):
                return RedirectResponse(login, 303)
        body = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        return JSONResponse({"error": body}, status_code=status, headers=more)


def answer_to(error: DriftlineError) -> tuple[int, dict[str, str]]:
    """Status and headers of a refusal."""
    if isinstance(error, ThrottledError):
        return 429, {"retry-after": str(math.ceil(error.wait_s))}
    if isinstance(error, ForbiddenError):
        return 403, {}
    if isinstance(error, AccessError):
        return 401, {"www-authenticate": 'Bearer realm="driftline"'}
    return 503, {}


def bearer(headers: Headers) -> str | None:
    """The API key of a request."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def session_cookie(headers: Headers) -> str | None:
    """The page's session of a request."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None else None


def client(scope: Scope) -> str:
    """Address of who asks."""
    return str((scope.get("client") or ("",))[0])


def router(context: Context, templates: Environment) -> APIRouter:
    """Log in and out."""
    routes = APIRouter(include_in_schema=False)
    gate = context.gate

    def form(next_path: str, problem: str = "", status: int = 200) -> HTMLResponse:
        text = templates.get_template("login.html").render(next=next_path, problem=problem)
        return HTMLResponse(text, status_code=status)

    @routes.get("/login")
    def ask(next: str = "/") -> Response:
        return form(_local(next))

    @routes.post("/login")
    def login(request: Request, key: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:
        try:
            cookie = gate.login(key.strip(), client(request.scope))
        except AccessError as error:
            return form(_local(next), f"{error.what}. {error.remedy}", answer_to(error)[0])
        answer = RedirectResponse(_local(next), 303)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=int(SESSION.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
        return answer

    @routes.post("/logout")
    def logout(request: Request) -> Response:
        cookie = session_cookie(request.headers)
        if cookie:
            gate.logout(cookie)
        answer = Response(status_code=204, headers={"HX-Redirect": "/login"})
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    return routes


def _public(scope: Scope) -> bool:
    path = scope["path"]
    if path == "/readyz" and scope["query_string"]:
        return False  # ?verbose names broker and database
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in PUBLIC)


def _local(path: str) -> str:
    """Where to go after the login: a path of ours, never another site."""
    return path if path.startswith("/") and not path.startswith("//") and "\\" not in path else "/"
