"""Who may do what: roles, grants, the shape of a key, how failed attempts are slowed. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

import msgspec

from schemas.errors import ConfigurationError, ForbiddenError, UnauthenticatedError

Role = Literal["viewer", "producer", "approver", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
INCLUDES: dict[str, frozenset[str]] = {
    "viewer": frozenset({"viewer"}),
    # Whoever makes versions does not decide on them: neither of these two holds the other.
    "producer": frozenset({"viewer", "producer"}),
    "approver": frozenset({"viewer", "approver"}),
    "admin": frozenset(ROLES),
}
"""What a role may, by role."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TOKEN = re.compile(r"dlk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")


class Grant(NamedTuple):
    """A role on the models that a pattern names, on those of a team, or (both given) on where the two meet."""

    role: str
    pattern: str = "*"
    team: str | None = None

    @property
    def everywhere(self) -> bool:
        return self.pattern == "*" and self.team is None

    def covers(self, model: str, team: str) -> bool:
        """Whether it is about `model`, which belongs to `team`."""
        return fnmatchcase(model, self.pattern) and self.team in {None, team}

    def __str__(self) -> str:
        return f"{self.role} on {self.pattern}" + (f" of team {self.team}" if self.team is not None else "")


class Principal(msgspec.Struct, frozen=True):
    """Who acts.

    Parameters
    ----------
    name : str
        What the audit calls the actor.
    kind : {"local", "key", "signer", "system"}
        An account of this machine, an API key, the key of a signed command, an agent.
    authenticated : bool
        Whether a secret proved the name.
    credential : str
        Public id of the key that proved it.
    grants : tuple of Grant
    """

    name: str
    kind: Literal["local", "key", "signer", "system"]
    authenticated: bool
    credential: str = ""
    grants: tuple[Grant, ...] = ()

    @property
    def id(self) -> str:
        """As the audit has it."""
        return f"{self.kind}:{self.name}"

    def may(self, role: Role, model: str | None = None, team: str = "") -> bool:
        """Whether it may act as `role` on `model`; without one, on any model at all."""
        return any(
            role in INCLUDES[grant.role] and (model is None or grant.covers(model, team)) for grant in self.grants
        )

    def everywhere(self, role: Role) -> bool:
        """Whether it may act as `role` on every model."""
        return any(role in INCLUDES[grant.role] and grant.everywhere for grant in self.grants)

    @property
    def asks_teams(self) -> bool:
        """Whether its rights depend on the team of a model."""
        return any(grant.team is not None for grant in self.grants)


def local_principal(account: str) -> Principal:
    """The account of this machine that acts where no key is required: it may everything, and proves nothing."""
    return Principal(account, "local", authenticated=False, grants=(Grant("admin"),))


def refuse(principal: Principal, role: Role, model: str | None) -> ForbiddenError:
    """The error that says which right is missing, and who can give it."""
    held = ", ".join(map(str, principal.grants)) or "nothing"
    wanted = model if model is not None else "*"
    return ForbiddenError(
        f"{principal.name} lacks the role {role} on {wanted if wanted != '*' else 'all models'} (has: {held})",
        where=f"model {model}" if model is not None and model != "*" else "access",
        remedy=f"an admin gives it: `driftline keys grant {principal.name} --role {role} --model '{wanted}'`",
    )


def acting_name(principal: Principal, claimed: str, default: str = "") -> str:
    """The actor to record: a proven name, or what somebody who proved nothing says.

    Raises
    ------
    ForbiddenError
        A key of one name acts in another.
    """
    if not principal.authenticated:
        return claimed or default or principal.name
    if claimed not in {"", principal.name}:
        raise ForbiddenError(
            f"the key is {principal.name}'s: it cannot act as {claimed}",
            where="actor",
            remedy="leave the actor out; it is the key's name",
        )
    return principal.name


def checked_grant(role: str, pattern: str, team: str | None) -> Grant:
    """A grant of what somebody wrote. Raises `ConfigurationError`."""
    if role not in ROLES:
        raise ConfigurationError(f"no role is called {role!r}", where="--role", remedy=f"one of {', '.join(ROLES)}")
    if not pattern or len(pattern) > 200:
        raise ConfigurationError("a pattern has 1 to 200 characters", where="--model", remedy="such as 'bus-*'")
    return Grant(role, pattern, team or None)


def checked_name(name: str) -> str:
    """The name of a key's holder. Raises `ConfigurationError`."""
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name", where="NAME", remedy="1 to 64 letters, digits, '.', '_', '-' or '@'"
        )
    return name


def token_text(key: str, secret: str) -> str:
    """A key as its holder gets it; the prefix lets scanners of repositories find it."""
    return f"dlk_{key}_{secret}"


def token_parts(token: str) -> tuple[str, str]:
    """Id and secret of a key.

    Raises
    ------
    UnauthenticatedError
        It has not the shape of one; the message does not repeat it.
    """
    found = _TOKEN.fullmatch(token.strip())
    if found is None:
        raise UnauthenticatedError(
            "that is no API key of Driftline",
            where="access",
            remedy="a key begins with dlk_ and is shown once, by `driftline keys create`",
        )
    return found[1], found[2]


class Throttle:
    """Slows whoever guesses: after `free` failures every further one doubles the wait.

    Parameters
    ----------
    free : int
        Failures without a wait.
    longest_s : float
        Longest wait; a failure is forgotten twice that time after the last one.
    most : int
        How many are remembered; the one that failed longest ago is forgotten first.
    """

    def __init__(self, *, free: int = 5, longest_s: float = 60.0, most: int = 10_000) -> None:
        self._free = free
        self._longest_s = longest_s
        self._most = most
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.total = 0

    def wait_s(self, names: Iterable[str], now_s: float) -> float:
        """Seconds that one of `names` still has to wait; 0: it may try."""
        return max(0.0, *(self._one(name, now_s) for name in names))

    def failed(self, names: Iterable[str], now_s: float) -> None:
        """Count a failed attempt."""
        self.total += 1
        for name in names:
            count, _ = self._failures.pop(name, (0, 0.0))
            self._failures[name] = (count + 1, now_s)
            if len(self._failures) > self._most:
                self._failures.popitem(last=False)

    def succeeded(self, names: Iterable[str]) -> None:
        """Forget the failures of `names`."""
        for name in names:
            self._failures.pop(name, None)

    def _one(self, name: str, now_s: float) -> float:
        count, at_s = self._failures.get(name, (0, 0.0))
        if now_s - at_s > 2 * self._longest_s:
            self._failures.pop(name, None)
            return 0.0
        if count < self._free:
            return 0.0
        return at_s + min(self._longest_s, 2.0 ** min(count - self._free, 30)) - now_s
