"""What the routes work with: wired once, handed to every route."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Protocol

from agents.access.gate import Visit
from agents.access.logic import Principal, Role, local_principal
from agents.gateway.shared import SharedBoard
from agents.gateway.views import ModelFacts, VersionFacts
from agents.registry.batch import Chosen, Outcome, What
from agents.registry.flags import Flag
from agents.registry.lineage import Lineage
from agents.registry.reviews import ReviewInfo
from agents.registry.search import Search, Seen
from agents.registry.views import VersionInfo
from agents.subjects.erasure import Erased
from schemas.errors import NotFoundError
from schemas.specification import Specification

if TYPE_CHECKING:
    from agents.provenance.live import Live
    from agents.provenance.why import Why

Check = Callable[[], str]
"""A readiness check: returns a word of detail, raises `DriftlineError` where the part does not answer."""


class RegistryPort(Protocol):
    """What the gateway needs of the registry. All methods may raise `DatabaseUnavailableError`."""

    def find_models(self, search: Search, seen: Seen) -> tuple[list[ModelFacts], str]: ...

    def find_versions(self, search: Search, seen: Seen) -> tuple[list[VersionInfo], str]: ...

    def model(self, model: str) -> ModelFacts: ...

    def tag(  # noqa: PLR0917
        self,
        model: str,
        version: int | None,
        tags: Mapping[str, str],
        removed: Iterable[str],
        by: Principal,
        actor: str,
    ) -> dict[str, str]: ...

    def versions(self, model: str, as_of: datetime | None = None) -> list[VersionFacts]: ...

    def specification(self, model: str) -> Specification: ...

    def lineage(self, model: str, version: int | None = None) -> Lineage: ...

    def lineage_of(self, kind: str, value: str) -> Lineage: ...

    def approve(
        self,
        model: str,
        version: int,
        *,
        by: Principal,
        actor: str,
        comment: str,
        artifact: str | None = None,
        consented: Collection[str] = (),
    ) -> None: ...

    def reject(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> None: ...

    def rollback(
        self, model: str, to: int | None, *, by: Principal, actor: str, reason: str, expected: int | None = None
    ) -> int: ...

    def chosen(self, what: What, search: Search) -> list[Chosen]: ...

    def decide_all(  # noqa: PLR0917
        self,
        what: What,
        found: list[Chosen],
        by: Principal,
        actor: str,
        reason: str,
        allowed: Callable[[str], bool],
        consented: Collection[str] = (),
    ) -> list[Outcome]: ...

    def request_approval(self, model: str, version: int, *, by: Principal, actor: str) -> str: ...

    def archive(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> str: ...

    def flags(self, model: str | None = None) -> list[Flag]: ...

    def flag(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> list[Flag]: ...

    def withdraw_flag(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> list[Flag]: ...

    def reviews(self, *, done: bool = False) -> list[ReviewInfo]: ...

    def review(self, number: int, *, by: Principal, actor: str, comment: str) -> ReviewInfo: ...


class GatePort(Protocol):
    """What the gateway needs of `agents.access.gate.Gate`."""

    def visit(self, token: str | None, cookie: str | None, client: str) -> Visit: ...

    def login(self, token: str, client: str) -> str: ...

    def logout(self, cookie: str) -> None: ...

    def need(self, principal: Principal, role: Role, model: str | None) -> None: ...

    def visible(self, principal: Principal, models: Iterable[str]) -> set[str]: ...

    @property
    def failures(self) -> int: ...


class ErasePort(Protocol):
    """What the gateway needs of `agents.subjects.erasure.Eraser`."""

    def __call__(self, subject: str, by: Principal, *, actor: str = "", dry_run: bool = False) -> Erased: ...


class ProvenancePort(Protocol):
    """What the gateway needs of `agents.provenance.answers.Provenance`. May raise `DatabaseUnavailableError`."""

    def live(self, model: str, at: datetime | None = None) -> Live: ...

    def why(self, model: str, version: int) -> Why: ...


class OpenGate:
    """Lets everybody in as the account of this machine: for tests of the page alone."""

    failures = 0

    def visit(self, token: str | None, cookie: str | None, client: str) -> Visit:
        return Visit(local_principal("nobody"))

    def login(self, token: str, client: str) -> str:
        return ""

    def logout(self, cookie: str) -> None:
        pass

    def need(self, principal: Principal, role: Role, model: str | None) -> None:
        pass

    def visible(self, principal: Principal, models: Iterable[str]) -> set[str]:
        return set(models)


def nobody_to_erase(subject: str, by: Principal, *, actor: str = "", dry_run: bool = False) -> Erased:
    """Where no keys of people are at hand."""
    raise NotFoundError("no keys of people are kept here", where="POST /api/erasures")


class NothingRecorded:
    """Where neither registry nor archive is at hand."""

    def live(self, model: str, at: datetime | None = None) -> Live:
        raise NotFoundError("nothing is recorded here", where=f"model {model}")

    def why(self, model: str, version: int) -> Why:
        raise NotFoundError("nothing is recorded here", where=f"{model} version {version}")


@dataclass(frozen=True)
class Context:
    """Parts of the gateway.

    Parameters
    ----------
    checks : mapping of str to callable
        Readiness checks by name.
    bound_to : str
        Address that the gateway listens on.
    gate : GatePort
        Who may come in. The default lets everybody in.
    erase : ErasePort
        Erases a person. The default knows nobody.
    provenance : ProvenancePort
        Which version was live, and why. The default knows nothing.
    """

    board: SharedBoard
    registry: RegistryPort
    stop: Event
    checks: Mapping[str, Check] = field(default_factory=dict)
    bound_to: str = "127.0.0.1"
    gate: GatePort = field(default_factory=OpenGate)
    erase: ErasePort = nobody_to_erase
    provenance: ProvenancePort = field(default_factory=NothingRecorded)
