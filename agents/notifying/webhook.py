"""One signed webhook request, or another's: pinned to a checked address, no redirects, ended by a deadline.

References
----------
Standard Webhooks (standardwebhooks.com): headers ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``.
"""

from __future__ import annotations

import os
import secrets
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpcore
from standardwebhooks import Webhook

from agents.notifying.addresses import Endpoint, Resolve, pinned_address, system_resolve
from schemas.errors import ConfigurationError

DEADLINE_S = 10.0


class DeliveryError(Exception):
    """The message did not arrive. `final`: the receiver does not want it any more."""

    def __init__(self, what: str, *, final: bool = False) -> None:
        super().__init__(what)
        self.final = final


def load_secret(configured: str, home: Path) -> str:
    """The signing secret: the configured one, else one made on first use in ``home/keys/webhook.secret`` (0600).

    Raises
    ------
    ConfigurationError
        The configured secret is none.
    """
    if configured:
        try:
            Webhook(configured)
        except Exception as error:
            raise ConfigurationError(
                "the webhook secret cannot be used",
                where="DRIFTLINE_WEBHOOK_SECRET",
                remedy="write whsec_ and 24–64 bytes in base64",
            ) from error
        return configured
    path = home / "keys" / "webhook.secret"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(made)
    return path.read_text(encoding="ascii").strip()


def post(
    endpoint: Endpoint,
    secret: str,
    message_id: str,
    body: str,
    at: datetime,
    *,
    deadline_s: float = DEADLINE_S,
    resolve: Resolve = system_resolve,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Send one message.

    Parameters
    ----------
    message_id : str
        The same for every attempt: receivers drop what they have.
    at : datetime
        Aware; time of this attempt (receivers tolerate five minutes).
    deadline_s : float
        Limit of the whole exchange, however slowly the receiver answers.

    Raises
    ------
    DeliveryError
        Refused, unreachable, too slow, or any answer but 2xx (a redirect is not followed).
    RefusedAddressError
        The host resolves to an address that is not public.
    """
    signed = [
        ("webhook-id", message_id),
        ("webhook-timestamp", str(int(at.timestamp()))),
        ("webhook-signature", Webhook(secret).sign(message_id, at, body)),
    ]
    exchange(endpoint, signed, body.encode(), deadline_s=deadline_s, resolve=resolve, tls=tls)


def exchange(
    endpoint: Endpoint,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    deadline_s: float = DEADLINE_S,
    resolve: Resolve = system_resolve,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Post JSON and wait for the answer. Raises as `post`."""
    try:
        address = pinned_address(endpoint, resolve)
    except OSError as error:
        raise DeliveryError(f"{endpoint.host} does not resolve: {error}") from error
    sent = [
        ("Host", endpoint.host_header),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("User-Agent", "driftline"),
        *headers,
    ]
    backend = _PinnedBackend(address, time.monotonic() + deadline_s)
    url = httpcore.URL(
        scheme=endpoint.scheme.encode(),
        host=endpoint.host.encode("idna"),
        port=endpoint.port,
        target=endpoint.path.encode(),
    )
    limit = {"timeout": {"connect": deadline_s, "read": deadline_s, "write": deadline_s, "pool": deadline_s}}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=tls or ssl.create_default_context(), network_backend=backend) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions=limit) as response,
        ):
            status = int(response.status)
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise DeliveryError(f"{type(error).__name__}: {error}"[:300]) from error
    if 300 <= status < 400:
        raise DeliveryError(f"answered {status}: redirects are not followed")
    if not 200 <= status < 300:
        raise DeliveryError(f"answered {status}", final=status == 410)


class _PinnedBackend(httpcore.NetworkBackend):
    """Connects to one address whatever the name says, and ends everything at the deadline.

    The TLS handshake still asks for, and checks, the name.
    """

    def __init__(self, address: str, deadline: float) -> None:
        self._address = address
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(self._address, port, _remaining(self._deadline), local_address, socket_options)
        return _TimedStream(stream, self._deadline)


class _TimedStream(httpcore.NetworkStream):
    """A stream whose every step gets only what is left until the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _remaining(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _remaining(self._deadline))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, _remaining(self._deadline))
        return _TimedStream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline passed")
    return left
