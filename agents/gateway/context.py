"""What the routes work with: wired once, handed to every route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import Protocol

from agents.gateway.shared import SharedBoard
from agents.gateway.views import ModelFacts, VersionFacts
from schemas.specification import Specification

Check = Callable[[], str]
"""A readiness check: returns a word of detail, raises `DriftlineError` where the part does not answer."""


class RegistryPort(Protocol):
    """What the gateway needs of the registry. All methods may raise `DatabaseUnavailableError`."""

    def models(self) -> list[ModelFacts]: ...

    def versions(self, model: str, as_of: datetime | None = None) -> list[VersionFacts]: ...

    def specification(self, model: str) -> Specification: ...

    def approve(self, model: str, version: int, *, actor: str, comment: str, artifact: str | None = None) -> None: ...

    def reject(self, model: str, version: int, *, actor: str, reason: str) -> None: ...

    def rollback(self, model: str, to: int | None, *, actor: str, reason: str, expected: int | None = None) -> int: ...


@dataclass(frozen=True)
class Context:
    """Parts of the gateway.

    Parameters
    ----------
    checks : mapping of str to callable
        Readiness checks by name.
    bound_to : str
        Address that the gateway listens on.
    """

    board: SharedBoard
    registry: RegistryPort
    stop: Event
    checks: Mapping[str, Check] = field(default_factory=dict)
    bound_to: str = "127.0.0.1"
