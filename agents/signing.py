"""Ed25519 keys: generated on first use, kept in a folder readable by their owner only.

``private.pem`` signs; every ``*.pub`` in the folder is trusted for verification, so that keys can be rotated and
artifacts of another installation accepted by dropping its public key there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from schemas.errors import ArtifactError, ConfigurationError


class KeyRing:
    """The signing key and the trusted public keys of one installation.

    Parameters
    ----------
    folder : Path
        Created with mode 0700; the private key has mode 0600.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sign(self, data: bytes) -> bytes:
        """A detached signature as JSON: the key's id and the signature in hexadecimal."""
        return _signature(self._private(), data)

    def verify(self, data: bytes, signature: bytes) -> str:
        """Check a detached signature; returns the id of the trusted key that made it.

        Raises
        ------
        ArtifactError
            Where the signature is malformed, by a key that is not trusted, or not of these bytes.
        """
        try:
            document = json.loads(signature)
            if document.keys() != {"algorithm", "key", "signature"} or document["algorithm"] != "ed25519":
                raise ValueError("another form")
            key_id, value = str(document["key"]), bytes.fromhex(document["signature"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError("the signature is malformed", remedy="register the version again") from error
        public = self._trusted().get(key_id)
        if public is None:
            raise ArtifactError(
                f"signed by key {key_id}, which is not trusted here",
                where=str(self.folder),
                remedy="put that installation's public key into this folder as NAME.pub",
            )
        try:
            public.verify(value, data)
        except InvalidSignature as error:
            raise ArtifactError("the signature is not of these bytes: the artifact was altered") from error
        return key_id

    def own(self) -> str:
        """Id of the key that signs here; made where there is none."""
        return _key_id(self._private().public_key())

    def trusted(self) -> dict[str, str]:
        """File name by id of every trusted key."""
        found: dict[str, str] = {}
        for path, key in self._files():
            found.setdefault(_key_id(key), path.name)
        return found

    def rotate(self) -> str:
        """Sign with a new key from now on; returns its id. What older keys signed stays trusted.

        Notes
        -----
        The old public key is kept as ``retired-ID.pub``. To do without it, `ArtifactStore.renew` what it signed, then
        distrust it.
        """
        old = self._private().public_key()
        kept = self.folder / f"retired-{_key_id(old)}.pub"
        write_new(kept, old.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
        new = Ed25519PrivateKey.generate()
        # The public key is there before the private one signs: nothing is ever signed by a key that is not trusted.
        _replace(
            self.folder / "own.pub", new.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        _replace(
            self.folder / "private.pem", new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600
        )
        return _key_id(new.public_key())

    def trust(self, pem: bytes, name: str, *, or_numbered: bool = False) -> str:
        """Trust another installation's public key; returns its id.

        Parameters
        ----------
        or_numbered : bool
            Where `name` is taken by another key (that installation has rotated its own), call it ``NAME-ID``.

        Raises
        ------
        ArtifactError
            No Ed25519 public key, or `name` is taken by another.
        """
        if not name.isidentifier() and not name.replace("-", "").isalnum():
            raise ArtifactError(f"{name!r} cannot name a key", remedy="use letters, digits and '-'")
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise ArtifactError("no public key in PEM", remedy="give the other installation's keys/own.pub") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ArtifactError("not an Ed25519 key", remedy="give the other installation's keys/own.pub")
        key_id = _key_id(key)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in (name, f"{name}-{key_id}") if or_numbered else (name,):
            path = self.folder / f"{each}.pub"
            write_new(path, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
            held = dict(self._files()).get(path)
            if held is not None and _key_id(held) == key_id:
                return key_id
        raise ArtifactError("the file holds another key", where=str(path), remedy="choose a name")

    def distrust(self, key_id: str) -> list[str]:
        """Trust a key no longer; returns the files that were removed. What it signed is refused from now on.

        Raises
        ------
        ArtifactError
            It is not trusted, or it is the key that signs here.
        """
        if (self.folder / "private.pem").exists() and key_id == self.own():
            raise ArtifactError("this key signs here", where=str(self.folder), remedy="rotate first")
        found = [path for path, key in self._files() if _key_id(key) == key_id]
        if not found:
            raise ArtifactError(f"no trusted key has the id {key_id}", where=str(self.folder))
        for path in found:
            path.unlink()
        return [path.name for path in found]

    def public_pem(self) -> bytes:
        """The public key that others need to trust what is signed here."""
        return self._private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _private(self) -> Ed25519PrivateKey:
        path = self.folder / "private.pem"
        if not path.exists():
            self._generate(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ArtifactError("not an Ed25519 key", where=str(path))
        public = self.folder / "own.pub"
        if not public.exists():
            write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
        return key

    def _generate(self, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_new(path, pem, 0o600)

    def _trusted(self) -> dict[str, Ed25519PublicKey]:
        return {_key_id(key): key for _, key in self._files()}

    def _files(self) -> list[tuple[Path, Ed25519PublicKey]]:
        found = []
        for path in sorted(self.folder.glob("*.pub")):
            try:
                key = load_pem_public_key(path.read_bytes())
            except ValueError:
                continue  # no key: nothing is trusted because of it, and what others signed is not refused for it
            if isinstance(key, Ed25519PublicKey):
                found.append((path, key))
        return found


class PrivateKey:
    """Somebody's own private key, to sign with.

    Parameters
    ----------
    pem : bytes
        Ed25519, PKCS 8, not encrypted.

    Raises
    ------
    ConfigurationError
    """

    def __init__(self, pem: bytes) -> None:
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                "no private key in PEM, or an encrypted one", remedy="openssl genpkey -algorithm ed25519 -out key.pem"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError("not an Ed25519 key", remedy="openssl genpkey -algorithm ed25519 -out key.pem")
        self._key = key
        self.id = _key_id(key.public_key())

    def sign(self, data: bytes) -> bytes:
        """As `KeyRing.sign`."""
        return _signature(self._key, data)


def _signature(private: Ed25519PrivateKey, data: bytes) -> bytes:
    key = _key_id(private.public_key())
    return json.dumps({"algorithm": "ed25519", "key": key, "signature": private.sign(data).hex()}).encode()


def public_key_id(public: bytes) -> str:
    """Id of a key: of the 32 bytes of its public half."""
    return hashlib.sha256(public).hexdigest()[:16]


def _key_id(key: Ed25519PublicKey) -> str:
    return public_key_id(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write `path` whole or not at all; where another process was first, its file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` in the place of `path`, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    write_new(temporary, data, mode)
    temporary.replace(path)
