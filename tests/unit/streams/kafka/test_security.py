"""librdkafka's security properties, as other clients take them."""

from __future__ import annotations

import ssl

import pytest

from schemas.errors import UnsafeSettingError
from streams.kafka.security import Security, security


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, Security()),
        ({"security.protocol": "plaintext"}, Security()),
        (
            {"security.protocol": "SASL_PLAINTEXT", "sasl.username": "u", "sasl.password": "p"},
            Security("SASL_PLAINTEXT", None, "PLAIN", "u", "p"),
        ),
        (
            {"security.protocol": "sasl_plaintext", "sasl.mechanisms": "scram-sha-512", "sasl.username": "u"},
            Security("SASL_PLAINTEXT", None, "SCRAM-SHA-512", "u", None),
        ),
    ],
)
def test_without_certificates(properties: dict[str, str], expected: Security) -> None:
    assert security(properties) == expected


@pytest.mark.parametrize(
    ("over", "hostname", "verify"),
    [
        ({}, True, ssl.CERT_REQUIRED),
        ({"ssl.endpoint.identification.algorithm": "none"}, False, ssl.CERT_REQUIRED),
        ({"enable.ssl.certificate.verification": "false"}, False, ssl.CERT_NONE),
    ],
)
@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_certificates_are_checked_unless_told(
    protocol: str, over: dict[str, str], hostname: bool, verify: ssl.VerifyMode
) -> None:
    context = security({"security.protocol": protocol, **over}).context
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (hostname, verify)


@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"},
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "TELEPATHY"},
    ],
)
def test_what_only_librdkafka_speaks_is_refused(properties: dict[str, str]) -> None:
    with pytest.raises(UnsafeSettingError, match="not supported"):
        security(properties)
