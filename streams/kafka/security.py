"""librdkafka's security properties, for the Kafka clients that are not librdkafka."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import UnsafeSettingError

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Security:
    """How to reach the broker safely.

    Attributes
    ----------
    protocol : str
        ``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``.
    context : ssl.SSLContext, optional
        With certificates loaded, where the protocol wants one.
    mechanism : str, optional
        Of SASL.
    username, password : str, optional
    """

    protocol: str = "PLAINTEXT"
    context: ssl.SSLContext | None = None
    mechanism: str | None = None
    username: str | None = None
    password: str | None = None


def security(properties: Mapping[str, str]) -> Security:
    """What librdkafka's properties say.

    Raises
    ------
    UnsafeSettingError
        A mechanism that only librdkafka speaks, rather than silently connecting without it.
    """
    protocol = properties.get("security.protocol", "PLAINTEXT").upper()
    context = _ssl_context(properties) if protocol.endswith("SSL") else None
    if protocol in ("PLAINTEXT", "SSL"):
        return Security(protocol, context)
    mechanism = properties.get("sasl.mechanism", properties.get("sasl.mechanisms", "PLAIN")).upper()
    if not protocol.startswith("SASL_") or mechanism not in _MECHANISMS:
        raise UnsafeSettingError(
            f"{protocol} with {mechanism} is not supported by the control-plane agents",
            where="KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_MECHANISM",
            remedy="use SSL, or SASL_SSL with PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
        )
    return Security(protocol, context, mechanism, properties.get("sasl.username"), properties.get("sasl.password"))


def _ssl_context(properties: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=properties.get("ssl.ca.location"))
    if certificate := properties.get("ssl.certificate.location"):
        context.load_cert_chain(
            certificate, properties.get("ssl.key.location"), properties.get("ssl.key.password") or None
        )
    if properties.get("ssl.endpoint.identification.algorithm", "https") == "none":
        context.check_hostname = False
    if properties.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
