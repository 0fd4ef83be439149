"""The gate of the HTTP interface: from a key or a cookie to who asks, and whether that one may."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete

from agents.access.keys import Keys
from agents.access.logic import Principal, Role, Throttle, local_principal, refuse, token_parts
from agents.access.tables import ApiKeyRow, SessionRow
from agents.access.teams import team_of, visible
from agents.database.engine import Sessions
from schemas.errors import DatabaseUnavailableError, ThrottledError, UnauthenticatedError

SESSION = timedelta(hours=12)
PROVEN_S = 300.0
MOST_PROVEN = 1_000
AT_ONCE = 2
"""Secrets that are hashed at the same time: each takes 19 MiB."""

log = logging.getLogger(__name__)


class Visit(NamedTuple):
    """Who asks; `csrf` is what a change must carry where a cookie says so."""

    principal: Principal
    csrf: str = ""


class Gate:
    """Who asks, by key or cookie.

    Parameters
    ----------
    sessions, readers : Sessions
        Writing and reading sessions.
    loopback : bool
        Whether only this machine reaches the interface: then it is open as long as no key was ever made.
    account : str
        The account of this machine that is named where nobody has to prove anything.
    clock : callable
        The system's clock, aware.
    seconds : callable
        A clock for waits.

    Notes
    -----
    A secret is hashed at its first use and then every five minutes; whether the key is still in force is read from the
    database at every request. All methods may raise `DatabaseUnavailableError`.
    """

    def __init__(
        self,
        sessions: Sessions,
        readers: Sessions,
        *,
        loopback: bool,
        account: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._readers = readers
        self._loopback = loopback
        self._local = local_principal(account)
        self._clock = clock
        self._seconds = seconds
        self._keys = Keys(clock)
        self._throttle = Throttle()
        self._proven: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        self._hashing = threading.Semaphore(AT_ONCE)
        self._open_before = False

    def visit(self, token: str | None, cookie: str | None, client: str) -> Visit:
        """Who asks.

        Parameters
        ----------
        token : str or None
            API key of the header ``Authorization: Bearer``.
        cookie : str or None
            Session of the page.
        client : str
            Address that failed attempts are counted for.

        Raises
        ------
        UnauthenticatedError
        ThrottledError
        """
        if token:
            return Visit(self._holder(token, client))
        if not self._required():
            return Visit(self._local)
        if not cookie:
            raise UnauthenticatedError(
                "an API key is needed",
                where="Authorization",
                remedy="send `Authorization: Bearer dlk_…`, or log in at /login; an admin makes keys with "
                "`driftline keys create NAME --role viewer`",
            )
        with self._readers() as session:
            row = session.get(SessionRow, _digest(cookie))
            if row is None or row.expires_at <= self._clock():
                raise UnauthenticatedError("the session is over", where="cookie", remedy="log in again at /login")
            key = session.get(ApiKeyRow, row.key)
            assert key is not None
            return Visit(self._keys.holder(session, key), csrf_of(cookie))

    def login(self, token: str, client: str) -> str:
        """The cookie of a new session for the holder of `token`. Raises as `visit`."""
        principal = self._holder(token, client)
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        with self._sessions.begin() as session:
            session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
            session.add(SessionRow(digest=_digest(cookie), key=principal.credential, expires_at=now + SESSION))
        return cookie

    def logout(self, cookie: str) -> None:
        """End a session."""
        with self._sessions.begin() as session:
            session.execute(delete(SessionRow).where(SessionRow.digest == _digest(cookie)))

    def need(self, principal: Principal, role: Role, model: str | None) -> None:
        """Refuse where `principal` may not act as `role` on `model` (``*``: on all; None: on any).

        Raises
        ------
        ForbiddenError
        """
        if model == "*":
            allowed = principal.everywhere(role)
        elif model is not None and principal.asks_teams:
            with self._readers() as session:
                allowed = principal.may(role, model, team_of(session, model))
        else:
            allowed = principal.may(role, model)
        if not allowed:
            raise refuse(principal, role, model)

    def visible(self, principal: Principal, models: Iterable[str]) -> set[str]:
        """Those of `models` that `principal` may look at."""
        if not principal.asks_teams:
            return {model for model in models if principal.may("viewer", model)}
        with self._readers() as session:
            return visible(session, principal, models)

    @property
    def failures(self) -> int:
        """Failed attempts since the start."""
        return self._throttle.total

    # ------------------------------------------------------------------------------------------- inside

    def _required(self) -> bool:
        if not self._loopback:
            return True
        try:
            with self._readers() as session:
                required = self._keys.required(session)
        except DatabaseUnavailableError:
            # The page goes on showing the series while the database is down, where it was open a moment ago.
            if self._open_before:
                return False
            raise
        self._open_before = not required
        return required

    def _holder(self, token: str, client: str) -> Principal:
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            proven = self._seconds() - self._proven.get(digest, -math.inf) < PROVEN_S
        if proven:
            with self._readers() as session:
                return self._keys.principal(session, token, proven=True)
        try:
            names = [client, f"{client} {token_parts(token)[0]}"]
        except UnauthenticatedError:
            names = [client]
        self._wait(names)
        try:
            with self._hashing, self._readers() as session:
                principal = self._keys.principal(session, token)
        except UnauthenticatedError as error:
            self._failed(names, token, error, client)
            raise
        with self._lock:
            self._throttle.succeeded(names[1:])
            self._proven[digest] = self._seconds()
            while len(self._proven) > MOST_PROVEN:
                self._proven.popitem(last=False)
        return principal

    def _wait(self, names: list[str]) -> None:
        with self._lock:
            wait_s = self._throttle.wait_s(names, self._seconds())
        if wait_s > 0:
            raise ThrottledError(
                f"too many failed attempts: the next one is looked at in {math.ceil(wait_s)} s",
                wait_s=wait_s,
                where="access",
                remedy="use the right key; `driftline keys list` shows which there are",
            )

    def _failed(self, names: list[str], token: str, error: UnauthenticatedError, client: str) -> None:
        with self._lock:
            self._throttle.failed(names, self._seconds())
        log.warning("refused a key from %s: %s", client, error.what)
        if len(names) > 1:
            with self._sessions.begin() as session:
                self._keys.failed(session, token)


def csrf_of(cookie: str) -> str:
    """What a change must carry beside the cookie: another site can send the cookie, not read it."""
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
