"""The environment that a model was trained in, exactly: interpreter, platform, and every package that training loads.

A lock is a JSON document in the artifact store, by its content: versions trained in one environment share it. It names
the packages that training needs with all that they need, and nothing else that happens to be installed.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agents.retraining.environment import environment
from schemas.codec import encode
from schemas.errors import ArtifactError

if TYPE_CHECKING:
    from agents.artifacts import ArtifactStore

KIND = "environment"
ROOTS = ("msgspec", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "skops", "threadpoolctl", "tomli-w")
"""What training itself loads; a test holds it equal to what is imported."""
_MODULES = {"sklearn": "scikit-learn"}
_LOCKS = Path(__file__).parents[2] / "requirements" / "runtime.txt"
"""A checkout has the hashes of what may be downloaded; an installed Driftline does not."""


class Package(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An installed distribution.

    `content`: SHA-256 over the hashes of its files as installed (no byte code, no scripts), None where it keeps no
    record. `archives`: SHA-256 of archives it may be installed from, where they are known.
    """

    name: str
    version: str
    content: str | None = None
    archives: list[str] = msgspec.field(default_factory=list)
    license: str = ""
    requires: list[str] = msgspec.field(default_factory=list)


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """An environment. `driftline` is the version of this program."""

    python: str
    implementation: str
    abi: str
    system: str
    machine: str
    libc: str
    driftline: str
    packages: list[Package]

    def differences(self, other: Lock) -> list[str]:
        """What `other` has differently, a line each."""
        found = [
            f"{name}: {mine} → {theirs}"
            for name in ("python", "implementation", "abi", "system", "machine", "libc")
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        mine_by, theirs_by = ({one.name: one for one in lock.packages} for lock in (self, other))
        for name in sorted({*mine_by, *theirs_by}):
            one, two = mine_by.get(name), theirs_by.get(name)
            if one is None or two is None:
                found.append(f"{name}: {one.version if one else 'not there'} → {two.version if two else 'not there'}")
            elif one.version != two.version:
                found.append(f"{name}: {one.version} → {two.version}")
            elif one.content and two.content and one.content != two.content:
                found.append(f"{name} {one.version}: its files differ")
        return found


def record(artifacts: ArtifactStore, files: Mapping[str, bytes]) -> dict[str, str]:
    """Store the lock of this process for a project; what the version records of its environment.

    Parameters
    ----------
    files : mapping of str to bytes
        The project's files; what their Python imports is part of the lock.
    """
    return {**environment(), "lock": artifacts.put(encode(lock_of(files)), KIND)}


def read(artifacts: ArtifactStore, sha: str) -> Lock:
    """A stored lock. Raises `ArtifactError` where it is missing, altered or not signed here."""
    data = artifacts.get(sha)
    artifacts.verify(sha, KIND)
    try:
        return msgspec.json.decode(data, type=Lock)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"no lock: {error}", where=artifacts.path(sha)) from error


def lock_of(files: Mapping[str, bytes]) -> Lock:
    """The lock of this process for a project with these files."""
    return _lock(frozenset(imported(files)))


@cache
def _lock(modules: frozenset[str]) -> Lock:
    hashes = known_hashes(_LOCKS)
    packages = []
    for name, requires in sorted(closure([*ROOTS, *distributions(modules)]).items()):
        found = metadata.distribution(name)
        packages.append(
            Package(
                name=name,
                version=found.version,
                content=content_hash(found),
                archives=hashes.get((name, found.version), []),
                license=_license(found.metadata),
                requires=sorted(requires),
            )
        )
    libc = "-".join(platform.libc_ver())
    return Lock(
        python=platform.python_version(),
        implementation=sys.implementation.name,
        abi=str(sysconfig.get_config_var("SOABI") or ""),
        system=platform.system(),
        machine=platform.machine(),
        libc=libc,
        driftline=environment().get("driftline", ""),
        packages=packages,
    )


def imported(files: Mapping[str, bytes]) -> set[str]:
    """Top-level modules that a project's Python imports, without its own and the standard library's."""
    own = {name.partition("/")[0].removesuffix(".py") for name in files if name.endswith(".py")}
    found: set[str] = set()
    for name, content in files.items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - own - sys.stdlib_module_names


def distributions(modules: Iterable[str]) -> set[str]:
    """Distributions that provide modules."""
    named = {_MODULES.get(module, module) for module in modules}
    unknown = named - set(ROOTS)
    if not unknown:
        return named
    provided = metadata.packages_distributions()
    return {canonical_name(one) for module in unknown for one in provided.get(module, [])} | (named - unknown)


def closure(roots: Iterable[str]) -> dict[str, set[str]]:
    """Installed distributions that `roots` need, themselves included, with what each needs directly."""
    from packaging.requirements import Requirement

    found: dict[str, set[str]] = {}
    waiting = [(canonical_name(root), "") for root in roots]
    done: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        needs = found.setdefault(name, set())
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonical_name(requirement.name)
            needs.add(needed)
            waiting += [(needed, ""), *((needed, one) for one in requirement.extras)]
    return {name: needs & found.keys() for name, needs in found.items()}


def canonical_name(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def content_hash(distribution: metadata.Distribution) -> str | None:
    """SHA-256 over path and hash of what a distribution installed, without what differs from place to place."""
    text = distribution.read_text("RECORD")
    if text is None:
        return None
    kept = []
    for line in text.splitlines():
        path, _, rest = line.rpartition(",")[0].rpartition(",")
        if not rest.startswith("sha256=") or path.startswith(("..", "/")):
            continue
        if path.endswith((".pyc", "/INSTALLER", "/REQUESTED", "/direct_url.json")):
            continue
        kept.append(f"{path},{rest}")
    return hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()


def known_hashes(path: Path) -> dict[tuple[str, str], list[str]]:
    """SHA-256 of archives by name and version, from a requirements file with hashes."""
    if not path.is_file():
        return {}
    found: dict[tuple[str, str], list[str]] = {}
    for entry in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
        head = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", entry)
        if head is not None:
            found[canonical_name(head[1]), head[2]] = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
    return found


def _license(about: Any) -> str:
    said = about.get("License-Expression") or ""
    if said:
        return str(said)
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    return ", ".join(named)
