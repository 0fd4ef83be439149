"""Keys: rotation keeps what was signed, trust is given by hand and can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.signing import KeyRing
from schemas.errors import ArtifactError


def test_after_a_rotation_old_signatures_hold_and_new_ones_are_by_the_new_key(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    signature, old = ring.sign(b"data"), ring.own()
    new = ring.rotate()
    assert new == ring.own() != old
    assert ring.verify(b"data", signature) == old
    assert ring.verify(b"data", ring.sign(b"data")) == new
    assert set(ring.trusted()) == {old, new}
    ring.rotate()
    assert len(ring.trusted()) == 3
    assert ring.verify(b"data", signature) == old


def test_a_key_that_is_no_longer_trusted_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    signature, old = ring.sign(b"data"), ring.own()
    with pytest.raises(ArtifactError, match="signs here"):
        ring.distrust(old)
    ring.rotate()
    assert ring.distrust(old) == [f"retired-{old}.pub"]
    with pytest.raises(ArtifactError, match="not trusted here"):
        ring.verify(b"data", signature)
    with pytest.raises(ArtifactError, match="no trusted key"):
        ring.distrust(old)


def test_another_installation_is_trusted_by_its_public_key(tmp_path: Path) -> None:
    ours, theirs, third = (KeyRing(tmp_path / name) for name in ("ours", "theirs", "third"))
    signature = theirs.sign(b"data")
    assert ours.trust(theirs.public_pem(), "production") == theirs.own()
    assert ours.trust(theirs.public_pem(), "production") == theirs.own()
    assert ours.verify(b"data", signature) == theirs.own()
    with pytest.raises(ArtifactError, match="another key"):
        ours.trust(third.public_pem(), "production")
    assert third.own() not in ours.trusted()
    for _ in range(2):
        assert ours.trust(third.public_pem(), "production", or_numbered=True) == third.own()
    assert ours.trusted() == {theirs.own(): "production.pub", third.own(): f"production-{third.own()}.pub"}


def test_a_file_that_holds_no_key_neither_trusts_nor_stops(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    signature = ring.sign(b"data")
    (ring.folder / "broken.pub").write_bytes(b"-----BEGIN PUBLIC KEY-----")
    assert ring.verify(b"data", signature) == ring.own()
    assert set(ring.trusted()) == {ring.own()}
    with pytest.raises(ArtifactError, match="another key"):
        ring.trust(KeyRing(tmp_path / "other").public_pem(), "broken")


def test_what_is_no_ed25519_key_is_not_trusted(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    rsa = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem, name in ((b"nonsense", "x"), (rsa, "x"), (ring.public_pem(), "../x"), (ring.public_pem(), "")):
        with pytest.raises(ArtifactError):
            ring.trust(pem, name)
    assert set(ring.trusted()) == {ring.own()}
