"""Signed commands: what is signed, how, and when a record of `registry-commands` or `retrain-requests` is believed.

Notes
-----
Signed are, each on a line of its own: ``driftline-command-v1``, the audience (cluster id, ``/``, full topic name), the
record's key in hexadecimal, the time of signing (ISO 8601 UTC) and SHA-256 of the value in hexadecimal; the value holds
the command's id. Headers: ``driftline-audience``, ``driftline-signed-at``, ``driftline-signature`` (JSON:
``algorithm``, ``key``, ``signature`` in hexadecimal).

A signature is young or worthless: the broker's timestamp of the record (`LogAppendTime`: no producer writes it) lies
within ten minutes of the time of signing. What is sent again within them is known by its command id, so that nothing is
done twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agents.signing import KeyRing
from schemas.codec import Headers, iso
from schemas.errors import DecodeError
from schemas.topics import REGISTRY_COMMANDS
from streams.kafka.admin import cluster_id
from streams.kafka.config import KafkaConfig

AUDIENCE, SIGNED_AT, SIGNATURE = "driftline-audience", "driftline-signed-at", "driftline-signature"
YOUNG_MS = 600_000


class Signed(NamedTuple):
    """What the headers of a command say."""

    key: str
    signature: bytes
    at: datetime
    audience: str


def signed_bytes(audience: str, key: bytes | None, at: datetime, value: bytes) -> bytes:
    """The bytes that a command's signature is of.

    Examples
    --------
    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> signed_bytes("c/registry-commands", b"m", at, b"{}").decode().splitlines()[:4]
    ['driftline-command-v1', 'c/registry-commands', '6d', '2026-01-01T00:00:00Z']
    """
    parts = ("driftline-command-v1", audience, (key or b"").hex(), iso(at), hashlib.sha256(value).hexdigest())
    return "\n".join(parts).encode()


def audience_of(kafka: KafkaConfig, topic: str = REGISTRY_COMMANDS) -> str:
    """Whom commands are for: this cluster's topic. Raises `BrokerUnreachableError`."""
    return f"{cluster_id(kafka)}/{kafka.topic(topic)}"


class Signing(Protocol):
    """Signs bytes with a key: `KeyRing`, or somebody's `PrivateKey`."""

    def sign(self, data: bytes) -> bytes: ...


class CommandSigner:
    """Signs commands with the key in a folder, which is made at its first use.

    Parameters
    ----------
    ring : KeyRing or PrivateKey
    audience : callable
        Asked once, at the first signature.
    clock : callable
        The system's clock, aware.
    """

    def __init__(
        self, ring: Signing, audience: Callable[[], str], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._ring = ring
        self._ask = audience
        self._clock = clock

    @classmethod
    def of(cls, home: Path, kafka: KafkaConfig, topic: str = REGISTRY_COMMANDS) -> CommandSigner:
        """The signer of the agents of a home."""
        return cls(own_ring(home), lambda: audience_of(kafka, topic))

    @cached_property
    def audience(self) -> str:
        return self._ask()

    def headers(self, key: bytes | None, value: bytes) -> Headers:
        """Headers that make the command `value` believed. The key file is read anew: it may have been rotated."""
        at = self._clock()
        signature = self._ring.sign(signed_bytes(self.audience, key, at, value))
        return [(AUDIENCE, self.audience.encode()), (SIGNED_AT, iso(at).encode()), (SIGNATURE, signature)]


def own_ring(home: Path) -> KeyRing:
    """Keys that the agents of this home sign commands with."""
    return KeyRing(home.resolve() / "keys" / "commands")


def read_signature(headers: Iterable[tuple[str, bytes | None]] | None) -> Signed:
    """What the headers of a command say.

    Raises
    ------
    DecodeError
        ``unsigned``, or ``signature`` where it is malformed.
    """
    found = {name: value for name, value in headers or () if value is not None}
    if SIGNATURE not in found:
        raise DecodeError("the command is not signed", reason="unsigned")
    try:
        document = json.loads(found[SIGNATURE])
        at = datetime.fromisoformat(found[SIGNED_AT].decode())
        if document["algorithm"] != "ed25519" or at.tzinfo is None:
            raise ValueError
        signature = bytes.fromhex(document["signature"])
        return Signed(str(document["key"])[:64], signature, at, found[AUDIENCE].decode())
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError("the signature is malformed", reason="signature") from error


def check_signature(  # noqa: PLR0917
    signed: Signed, public: bytes, audience: str, key: bytes | None, value: bytes, appended_ms: int
) -> None:
    """Refuse what was not signed for us, by that key, a moment before the broker took it.

    Raises
    ------
    DecodeError
        ``audience``, ``age`` or ``signature``.
    """
    if signed.audience != audience:
        raise DecodeError(f"signed for {signed.audience}, this is {audience}", reason="audience")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            signed.signature, signed_bytes(signed.audience, key, signed.at, value)
        )
    except (InvalidSignature, ValueError) as error:
        raise DecodeError(f"the signature is not key {signed.key}'s of this command", reason="signature") from error
    if abs(appended_ms - round(signed.at.timestamp() * 1000)) > YOUNG_MS:
        raise DecodeError(
            f"signed at {iso(signed.at)}, more than {YOUNG_MS // 60_000} min from when the broker took it",
            reason="age",
        )
