"""Where the page is: the socket it binds and the note that tells others (the port may have been a free one)."""

from __future__ import annotations

import socket
from pathlib import Path

from agents.config import Settings
from schemas.errors import ConfigurationError


def bind(settings: Settings) -> tuple[socket.socket, str]:
    """A bound socket and the page's address; the address is noted in home.

    Raises
    ------
    ConfigurationError
        The address is taken or not this machine's; names the setting to change.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise ConfigurationError(
            f"the page cannot be served at {settings.host}:{settings.port}: {error.strerror}",
            where="DRIFTLINE_HOST, DRIFTLINE_PORT",
            remedy="end what uses the port, or set DRIFTLINE_PORT to another (0 takes a free one)",
        ) from error
    address = _url(settings.host, bound.getsockname()[1])
    _note(settings).parent.mkdir(parents=True, exist_ok=True)
    _note(settings).write_text(address, encoding="ascii")
    return bound, address


def page_address(settings: Settings) -> str:
    """Address of the page that runs (or last ran) in this home; the configured one where none did."""
    try:
        return _note(settings).read_text(encoding="ascii")
    except FileNotFoundError:
        return _url(settings.host, settings.port)


def _note(settings: Settings) -> Path:
    return settings.home.resolve() / "run" / "gateway.url"


def _url(host: str, port: int) -> str:
    # An address that means "all" is none that a browser can open.
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
