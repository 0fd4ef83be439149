"""The master key of an installation: it wraps the subjects' keys and makes their pseudonyms."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agents.config import Settings
from agents.signing import write_new
from agents.subjects.sealing import KEY_BYTES
from schemas.errors import ConfigurationError, StateError

FILE = "subjects.key"
BYTES = 32
_NONCE = 12


class Master:
    """The master key.

    Parameters
    ----------
    secret : bytes
        Of `BYTES`.
    """

    def __init__(self, secret: bytes) -> None:
        self._pseudonyms = _derived(secret, b"pseudonym")
        self._cipher = AESGCM(_derived(secret, b"wrap"))
        self.fingerprint = _derived(secret, b"fingerprint").hex()

    def pseudonym(self, subject: str) -> str:
        """What stands for a subject in the database and in the audit: 64 hexadecimal digits."""
        return hmac.digest(self._pseudonyms, subject.encode(), "sha256").hex()

    def wrap(self, secret: bytes, id: bytes) -> bytes:
        """A subject's key as the database keeps it."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, id)

    def unwrap(self, wrapped: bytes, id: bytes) -> bytes:
        """A subject's key. Raises `StateError` where it was altered."""
        try:
            secret = self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], id)
        except InvalidTag as error:
            raise StateError(
                "a subject's key does not unwrap", where="table subject_keys", remedy="restore the database"
            ) from error
        assert len(secret) == KEY_BYTES
        return secret


def load(settings: Settings) -> Master:
    """The installation's master key: of the setting, else of the file in home, which is made where there is none.

    Raises
    ------
    ConfigurationError
    """
    path = settings.home.resolve() / "keys" / FILE
    where = "DRIFTLINE_SUBJECT_KEY" if settings.subject_key else str(path)
    try:
        text = settings.subject_key or _of_file(path)
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != BYTES:
        raise ConfigurationError(
            "no master key",
            where=where,
            remedy="64 hexadecimal digits, the same on every machine: openssl rand -hex 32",
        )
    return Master(secret)


def _of_file(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new(path, os.urandom(BYTES).hex().encode() + b"\n", 0o600)
    return path.read_text(encoding="ascii")


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, b"driftline subjects 1 " + purpose, hashlib.sha256)
