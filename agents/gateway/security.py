"""Which requests the gateway answers: the right host, and changes only from its own page.

Notes
-----
A page of another site can make a browser post to 127.0.0.1, and a name of its own can be made to resolve there (DNS
rebinding). So a request that changes something must come from the same origin when a browser sends it, and as long
as the gateway is bound to loopback, only loopback names are answered. Programs that are no browser send neither
header and are let through: the gateway has no session that could be abused.

References
----------
W3C Fetch Metadata Request Headers (``Sec-Fetch-Site``).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
RESPONSE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


def host_name(host: str) -> str:
    """Name in a Host header, without port and brackets.

    Examples
    --------
    >>> host_name("[::1]:8787"), host_name("localhost:8787")
    ('::1', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def refusal(method: str, headers: Mapping[str, str], *, bound_to: str) -> str | None:
    """Why a request is refused; None where it is not.

    Parameters
    ----------
    method : str
    headers : mapping
        Names in lower case.
    bound_to : str
        Address the gateway listens on.
    """
    host = headers.get("host", "")
    if bound_to in LOOPBACK and host_name(host) not in LOOPBACK:
        return f"the host {host!r} is not served; use http://{bound_to}"
    if method in SAFE_METHODS:
        return None
    site = headers.get("sec-fetch-site")
    if site is not None:
        return None if site in {"same-origin", "none"} else f"a change cannot come from another site ({site})"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return f"a change cannot come from {origin}"
    return None


class Guard:
    """ASGI middleware: refuses with 403 and sets the security headers."""

    def __init__(self, app: ASGIApp, *, bound_to: str) -> None:
        self._app = app
        self._bound_to = bound_to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reason = refusal(scope["method"], Headers(scope=scope), bound_to=self._bound_to)
        if reason is not None:
            body = {"error": {"type": "Forbidden", "what": reason, "where": scope["path"], "remedy": "open the page"}}
            await JSONResponse(body, status_code=403)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(RESPONSE_HEADERS)
            await send(message)

        await self._app(scope, receive, guarded)
