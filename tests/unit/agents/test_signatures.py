"""The example that other languages test their signing with is what is believed here."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agents.access.signatures import CommandSigner, check_signature, read_signature
from agents.signing import PrivateKey
from schemas.codec import decode, to_ms
from schemas.events import RetrainRequest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "commands.md"


def test_the_example_of_the_docs_holds() -> None:
    found = dict(re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.M))
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found["private key (32 bytes, hexadecimal)"]))
    private = PrivateKey(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    value, at = found["value"].encode(), datetime.fromisoformat(found["at"])
    assert decode(value, RetrainRequest).model == found["key"]
    headers = CommandSigner(private, lambda: found["audience"], lambda: at).headers(found["key"].encode(), value)
    signed = read_signature(headers)  # type: ignore[arg-type]
    assert (signed.key, signed.signature.hex()) == (found["key id"], found["signature"])
    assert dict(headers)["driftline-signed-at"].decode() == found["at"]
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    check_signature(signed, public, found["audience"], found["key"].encode(), value, to_ms(at))
