"""The broker's jars: which ones (pinned by SHA-256), where they come from, and how they get onto this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlparse

from schemas.errors import BrokerError

KAFKA = "org.apache.kafka:kafka_2.13:4.3.0"
# Kafka's own POM brings no SLF4J binding; without one a broker that cannot start says nothing.
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
_PINNED = "jars.sha256"


@dataclass(frozen=True)
class Jar:
    """One pinned jar: SHA-256 and its path in a Maven repository."""

    sha256: str
    path: str

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rsplit("/", 1)[1]

    @property
    def coordinate(self) -> tuple[str, str, str]:
        """Group, artifact, version."""
        group, artifact, version, _ = self.path.rsplit("/", 3)
        return group.replace("/", "."), artifact, version


def pinned() -> list[Jar]:
    """The list shipped with Driftline (``sha256sum`` format, paths as in a Maven repository)."""
    lines = files("streams.kafka").joinpath(_PINNED).read_text(encoding="ascii").splitlines()
    return [Jar(*line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def default_cache() -> Path:
    """Where jars are kept for all installations of this user."""
    return Path.home() / ".cache" / "driftline"


def install_jars(cache_dir: Path | None = None, *, source: str = "", jars: list[Jar] | None = None) -> list[Path]:
    """Make every pinned jar available and return their paths.

    Parameters
    ----------
    cache_dir : Path, optional
        Default ``~/.cache/driftline``. What is there and has the right hash is not fetched again.
    source : str
        Empty: Maven Central through jgo. A URL: another Maven repository. A folder: offline, with the jars in it either
        side by side or laid out as a Maven repository.
    jars : list of Jar, optional
        Default `pinned()`.

    Raises
    ------
    BrokerError
        A jar cannot be had, or its SHA-256 is not the pinned one (names the jar; the file is not kept).
    """
    folder = (cache_dir or default_cache()) / "jars"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pinned() if jars is None else jars
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda jar: _install(jar, folder, source), wanted))


def missing_jars(cache_dir: Path | None = None) -> list[Jar]:
    """Pinned jars that are not in the cache, or not as pinned."""
    folder = (cache_dir or default_cache()) / "jars"
    return [jar for jar in pinned() if not _is_there(_target(jar, folder), jar)]


def _target(jar: Jar, folder: Path) -> Path:
    return folder / f"{jar.sha256[:16]}-{jar.name}"


def _is_there(target: Path, jar: Jar) -> bool:
    return target.exists() and _sha256(target) == jar.sha256


def _install(jar: Jar, folder: Path, source: str) -> Path:
    target = _target(jar, folder)
    if _is_there(target, jar):
        return target
    found = _from_folder(jar, source) if _is_folder(source) else _from_repository(jar, source, folder.parent)
    actual = _sha256(found)
    if actual != jar.sha256:
        if not _is_folder(source):
            found.unlink(missing_ok=True)
        raise BrokerError(
            f"SHA-256 of {jar.name} is {actual}, pinned is {jar.sha256}: it will not be run",
            where=str(found),
            remedy="check the repository or folder the jars come from (DRIFTLINE_JARS_URL); it served an altered file",
        )
    # Copied under a temporary name first: another process may be installing the same jar.
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(descriptor)
    shutil.copyfile(found, name)
    Path(name).replace(target)
    return target


def _is_folder(source: str) -> bool:
    return bool(source) and urlparse(source).scheme in ("", "file")


def _from_folder(jar: Jar, source: str) -> Path:
    root = Path(urlparse(source).path).expanduser()
    for candidate in (root / jar.name, root / jar.path):
        if candidate.is_file():
            return candidate
    raise BrokerError(
        f"{jar.name} is not there",
        where=str(root),
        remedy=f"put the jars of {KAFKA} (and {LOGGING}) there, side by side or laid out as a Maven repository",
    )


def _from_repository(jar: Jar, source: str, cache_dir: Path) -> Path:
    from jgo.maven import MavenContext

    context = MavenContext(
        repo_cache=cache_dir / "m2", remote_repos={"configured": source} if source else None, timeout=30
    )
    group, artifact, version = jar.coordinate
    try:
        return Path(context.project(group, artifact).at_version(version).artifact().resolve())
    except Exception as error:
        raise BrokerError(
            f"{jar.name} could not be downloaded: {error}",
            where=source or "Maven Central",
            remedy="connect this machine to the network once, or set DRIFTLINE_JARS_URL to another Maven repository "
            "or to a folder that holds the jars, or set KAFKA_BOOTSTRAP_SERVERS to use a broker of yours",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relock() -> str:
    """Resolve the broker anew through jgo; text for ``jars.sha256``."""
    import jgo

    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        found = {jar.name: jar for spec in (KAFKA, LOGGING) for jar in jgo.build(spec, cache_dir=cache).all_jars}
        lines = []
        for artifact in {*jgo.resolve(KAFKA), *jgo.resolve(LOGGING)}:
            if artifact.filename in found:
                group = artifact.groupId.replace(".", "/")
                path = f"{group}/{artifact.artifactId}/{artifact.version}/{artifact.filename}"
                lines.append(f"{_sha256(found[artifact.filename])}  {path}")
    header = f"# {KAFKA} and {LOGGING}; made by: python -m streams.kafka.jars"
    return "\n".join([header, *sorted(lines, key=lambda line: line.split()[1])]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(relock())
