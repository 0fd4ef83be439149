"""Where a webhook may go: https to public addresses, resolved once for each request, unless a host is allow-listed.

References
----------
OWASP, Server-Side Request Forgery Prevention Cheat Sheet.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from schemas.errors import UnsafeSettingError

Resolve = Callable[[str, int], list[str]]
_WHERE = "DRIFTLINE_WEBHOOK_URLS"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddressError(Exception):
    """The host resolves to an address that webhooks must not reach."""


@dataclass(frozen=True)
class Endpoint:
    """A checked webhook URL. `trusted`: the host is allow-listed, so http and private addresses are permitted."""

    scheme: str
    host: str
    port: int
    path: str
    trusted: bool

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def parse_endpoint(url: str, allowed: Collection[str]) -> Endpoint:
    """Check a webhook URL.

    Parameters
    ----------
    url : str
    allowed : collection of str
        Allow-listed hosts, ``host`` or ``host:port``.

    Raises
    ------
    UnsafeSettingError
        No URL, http to a host that is not allow-listed, or credentials in it. The message shows no path or query.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UnsafeSettingError("a webhook URL cannot be read", where=_WHERE, remedy="https://host/path") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise UnsafeSettingError(
            "a webhook URL has no http(s) scheme or host", where=_WHERE, remedy="https://host/path"
        )
    if parts.username is not None or parts.password is not None:
        raise UnsafeSettingError(
            f"the webhook URL for {host} carries credentials",
            where=_WHERE,
            remedy="leave them out: the receiver checks the signature",
        )
    port = port or (443 if parts.scheme == "https" else 80)
    names = {entry.lower() for entry in allowed}
    trusted = host in names or f"{host}:{port}" in names
    if parts.scheme == "http" and not trusted:
        raise UnsafeSettingError(
            f"the webhook to {host} is not https",
            where=_WHERE,
            remedy=f"use https, or allow the host: DRIFTLINE_WEBHOOK_ALLOW='[\"{host}\"]'",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.scheme, host, port, path, trusted)


def system_resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, in the system's order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def pinned_address(endpoint: Endpoint, resolve: Resolve = system_resolve) -> str:
    """The one address to connect to; the name is not looked up again for this request.

    Raises
    ------
    RefusedAddressError
        The host is not allow-listed and one of its addresses is not public (private, loopback, link-local, …).
    OSError
        The name does not resolve.
    """
    addresses = resolve(endpoint.host, endpoint.port)
    if not addresses:
        raise OSError(f"{endpoint.host} has no address")
    if not endpoint.trusted:
        for address in addresses:
            if not is_public(address):
                raise RefusedAddressError(
                    f"{endpoint.host} resolves to {address}, which is not public; "
                    f"allow it with DRIFTLINE_WEBHOOK_ALLOW if that is meant"
                )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also where IPv6 wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
