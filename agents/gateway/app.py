"""The gateway's HTTP application: the page, the data behind it, health and metrics."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader

from agents.gateway import access, api, health, pages
from agents.gateway.context import Context
from agents.gateway.formats import FILTERS
from agents.gateway.security import Guard
from agents.incident_lines import facts
from schemas.errors import (
    AccessError,
    ArtifactError,
    BrokerError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    DecodeError,
    DriftlineError,
    ForbiddenError,
    NotFoundError,
    ThrottledError,
    TransitionError,
)

HERE = Path(__file__).parent
STATUS: tuple[tuple[type[DriftlineError], int], ...] = (
    (ThrottledError, 429),
    (ForbiddenError, 403),
    (AccessError, 401),
    (NotFoundError, 404),
    (ConflictError, 409),
    (TransitionError, 409),
    (ArtifactError, 409),
    (DatabaseUnavailableError, 503),
    (BrokerError, 503),
    (DecodeError, 400),
    (ConfigurationError, 400),
)


def create_app(context: Context) -> FastAPI:
    """The application over wired parts; nothing is connected here.

    Notes
    -----
    Errors are ``{"error": {"type", "what", "where", "remedy"}}`` with 401 (no valid key), 403
    (a right is missing), 404, 409 (somebody else was first, the stage does
    not allow it, or the file is missing or altered), 503 (database or broker down: nothing changed) or 400.
    """
    app = FastAPI(title="Driftline", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(access.Doorkeeper, gate=context.gate)
    app.add_middleware(Guard, bound_to=context.bound_to)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(access.router(context, templates()))
    app.include_router(health.router(context))
    app.include_router(api.router(context))
    app.include_router(pages.router(context, templates()))

    @app.exception_handler(DriftlineError)
    def _refused(request: Request, error: DriftlineError) -> Response:
        problem = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        return failure(request, status_of(error), problem)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        remedy = "see docs/reference/http.md"
        return failure(request, 400, {"type": "InvalidRequest", "what": first["msg"], "where": where, "remedy": remedy})

    return app


def status_of(error: DriftlineError) -> int:
    """HTTP status of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def failure(request: Request, status: int, problem: dict[str, str]) -> Response:
    """An error as JSON; as a page where a browser navigates to it."""
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        found = access.somebody()
        csrf, who = (found.csrf, found.principal.name if found.principal.authenticated else "") if found else ("", "")
        text = templates().get_template("problem.html").render(status=status, csrf=csrf, who=who, **problem)
        return HTMLResponse(text, status_code=status)
    return JSONResponse({"error": problem}, status_code=status)


@cache
def templates() -> Environment:
    """The page's templates, with our filters; everything is escaped."""
    environment = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True)
    environment.filters.update(FILTERS, incident_lines=facts)
    digest = hashlib.sha256()
    for file in sorted((HERE / "static").glob("*.*")):
        digest.update(file.read_bytes())
    # A new release must not meet an old stylesheet in a browser's cache.
    environment.globals["revision"] = digest.hexdigest()[:8]
    return environment
