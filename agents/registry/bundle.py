"""A version on its way to another installation: one file, signed, checked before anything of it is parsed.

Layout: the line ``driftline-bundle 1``, a line with the sizes of signature and manifest, the signature (JSON of
`agents.signing.KeyRing.sign`, over the manifest's bytes), the manifest (JSON), then the files it lists, one after the
other. The signature is checked on the manifest's bytes before they are parsed; each file is checked against the size
and the SHA-256 that the manifest gives before anybody sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from agents.registry.views import VersionInfo
from agents.signing import KeyRing
from schemas.codec import encode
from schemas.errors import ArtifactError

MAGIC = b"driftline-bundle 1\n"
MAX_SIGNATURE_BYTES = 10_000
MAX_MANIFEST_BYTES = 20_000_000
MAX_FILE_BYTES = 2_000_000_000
MAX_FILES = 20
KINDS = frozenset({"model", "reference", "specification", "code", "diff", "environment", "dataset"})


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a bundle: an artifact of a kind."""

    kind: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds. `history`: the version's events as the exporting installation's audit has them.

    `parent_artifact`: SHA-256 of the model it succeeded there.
    """

    version: VersionInfo
    parent_artifact: str | None
    history: list[dict[str, Any]]
    exported_at: datetime
    exported_by: str
    driftline: str
    files: list[Content]


def write(path: Path, ring: KeyRing, manifest: Manifest, contents: Sequence[bytes]) -> None:
    """Write a bundle, whole or not at all; `contents` in the order of `manifest.files`."""
    data = encode(manifest)
    signature = ring.sign(_signed(data))
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(MAGIC)
        file.write(f"{len(signature)} {len(data)}\n".encode())
        file.write(signature)
        file.write(data)
        for content in contents:
            file.write(content)
    temporary.replace(path)


def read(file: BinaryIO, ring: KeyRing, where: str) -> tuple[Manifest, str]:
    """The manifest of a bundle and the id of the key that signed it; `file` stands at the first content afterwards.

    Raises
    ------
    ArtifactError
        No bundle, signed by a key that is not trusted, altered, or it lists what a bundle may not hold.
    """
    if file.readline(len(MAGIC)) != MAGIC:
        raise ArtifactError("not a bundle", where=where, remedy="`driftline export MODEL VERSION FILE` writes one")
    sizes = file.readline(40).split()
    if len(sizes) != 2 or not all(size.isdigit() for size in sizes):
        raise ArtifactError("the bundle's head is damaged", where=where)
    signature_size, manifest_size = map(int, sizes)
    if signature_size > MAX_SIGNATURE_BYTES or manifest_size > MAX_MANIFEST_BYTES:
        raise ArtifactError("the bundle's manifest is too large", where=where)
    signature, data = file.read(signature_size), file.read(manifest_size)
    key = _verified(ring, data, signature, where)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"the manifest is of another release: {error}", where=where, remedy="export and import with one release"
        ) from error
    unknown = {content.kind for content in manifest.files} - KINDS
    if unknown or len(manifest.files) > MAX_FILES or any(not 0 <= c.size <= MAX_FILE_BYTES for c in manifest.files):
        raise ArtifactError(f"lists what a bundle may not hold {', '.join(sorted(unknown))}".rstrip(), where=where)
    return manifest, key


def contents(file: BinaryIO, manifest: Manifest, where: str) -> Iterator[tuple[Content, bytes]]:
    """The files of a bundle, each checked; the last one ends the bundle.

    Raises
    ------
    ArtifactError
        Something is missing, altered, or follows the last file.
    """
    for content in manifest.files:
        data = file.read(content.size)
        if len(data) != content.size:
            raise ArtifactError(f"ends within its {content.kind}", where=where, remedy="copy it again")
        found = hashlib.sha256(data).hexdigest()
        if found != content.sha256:
            raise ArtifactError(f"its {content.kind} hashes to {found}: altered", where=where, remedy="copy it again")
        yield content, data
    if file.read(1):
        raise ArtifactError("something follows its last file: altered", where=where, remedy="copy it again")


def _verified(ring: KeyRing, data: bytes, signature: bytes, where: str) -> str:
    try:
        return ring.verify(_signed(data), signature)
    except ArtifactError as error:
        raise ArtifactError(
            error.what,
            where=where,
            remedy="`driftline signing trust FILE` with the exporting installation's public key "
            "(`driftline signing show` there)",
        ) from error


def _signed(manifest: bytes) -> bytes:
    return b"driftline bundle v1\n" + hashlib.sha256(manifest).hexdigest().encode() + b"\n"
