"""One signed request: what arrives, and what ends it."""

from __future__ import annotations

import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook, WebhookVerificationError

from agents.notifying.addresses import RefusedAddressError, parse_endpoint
from agents.notifying.webhook import DeliveryError, load_secret, post
from schemas.errors import ConfigurationError
from tests.support.receiver import Receiver, receiving

SECRET = "whsec_" + "c2VjcmV0" * 6


def send(receiver: Receiver, **over: float) -> None:
    endpoint = parse_endpoint(f"http://127.0.0.1:{receiver.port}/hook?x=1", ["127.0.0.1"])
    post(endpoint, SECRET, "id-1", '{"a": 1}', datetime.now(UTC), **over)


def test_the_receiver_can_check_the_signature() -> None:
    with receiving() as receiver:
        send(receiver)
    ((headers, body),) = receiver.requests
    assert Webhook(SECRET).verify(body, headers) == {"a": 1}
    assert headers["webhook-id"] == "id-1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "b3RoZXIh" * 6).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "said", "final"),
    [("302", "redirects are not followed", False), ("500", "answered 500", False), ("410", "answered 410", True)],
)
def test_any_other_answer_is_a_failure(status: str, said: str, final: bool) -> None:
    with receiving(status) as receiver, pytest.raises(DeliveryError, match=said) as error:
        send(receiver)
    assert error.value.final is final
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_receiver_that_never_ends_meets_the_deadline(behaviour: str) -> None:
    started = time.monotonic()
    with receiving(behaviour) as receiver, pytest.raises(DeliveryError):
        send(receiver, deadline_s=0.4)
    assert time.monotonic() - started < 30  # the receiver would go on for ever


def test_nobody_listens() -> None:
    with receiving() as receiver:
        pass
    with pytest.raises(DeliveryError):
        send(receiver)


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client contexts of a certificate for `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context()
    client.load_verify_locations(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    return server, client


def test_the_name_is_resolved_once_and_the_certificate_is_that_of_the_name(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "hooks.example.com")
    lookups: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"]

    with receiving(tls=server) as receiver:
        good = parse_endpoint(f"https://hooks.example.com:{receiver.port}/", ["hooks.example.com"])
        post(good, SECRET, "id", "{}", datetime.now(UTC), resolve=resolve, tls=client)
        assert lookups == ["hooks.example.com"]
        other = parse_endpoint(f"https://other.example.com:{receiver.port}/", ["other.example.com"])
        with pytest.raises(DeliveryError, match="certificate"):
            post(other, SECRET, "id", "{}", datetime.now(UTC), resolve=resolve, tls=client)
    assert len(receiver.requests) == 1


def test_a_name_that_turns_private_is_refused_before_anything_is_sent() -> None:
    with receiving() as receiver:
        endpoint = parse_endpoint(f"https://hooks.example.com:{receiver.port}/", [])
        with pytest.raises(RefusedAddressError):
            post(endpoint, SECRET, "id", "{}", datetime.now(UTC), resolve=lambda host, port: ["127.0.0.1"])
    assert receiver.requests == []


def test_a_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = load_secret("", tmp_path)
    assert load_secret("", tmp_path) == first
    Webhook(first)
    mode = stat.S_IMODE((tmp_path / "keys" / "webhook.secret").stat().st_mode)
    assert mode == 0o600
    assert load_secret(SECRET, tmp_path) == SECRET
    with pytest.raises(ConfigurationError) as error:
        load_secret("whsec_ä", tmp_path)
    assert "ä" not in str(error.value)
