"""Which webhooks are refused."""

from __future__ import annotations

import pytest

from agents.notifying.addresses import RefusedAddressError, is_public, parse_endpoint, pinned_address
from schemas.errors import UnsafeSettingError


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.com/",
        "https://[::1",
        "https://example.com:99999/",
        "example.com/secret",
        "",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UnsafeSettingError) as error:
        parse_endpoint(url, ["other.example.com"])
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "allowed", "expected"),
    [
        ("https://Example.com/a?b=c", [], ("https", "example.com", 443, "/a?b=c", False, "example.com")),
        ("https://example.com:8443", [], ("https", "example.com", 8443, "/", False, "example.com:8443")),
        ("http://Localhost:9000/a", ["LOCALHOST"], ("http", "localhost", 9000, "/a", True, "localhost:9000")),
        ("http://10.0.0.1/a", ["10.0.0.1:80"], ("http", "10.0.0.1", 80, "/a", True, "10.0.0.1")),
        ("https://[2001:db8::1]/", [], ("https", "2001:db8::1", 443, "/", False, "[2001:db8::1]")),
    ],
)
def test_urls_that_are_taken(url: str, allowed: list[str], expected: tuple[object, ...]) -> None:
    endpoint = parse_endpoint(url, allowed)
    found = (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path, endpoint.trusted, endpoint.host_header)
    assert found == expected


def test_allowing_one_port_does_not_allow_another() -> None:
    assert not parse_endpoint("https://10.0.0.1/a", ["10.0.0.1:8443"]).trusted


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_one_private_address_is_enough_to_refuse() -> None:
    endpoint = parse_endpoint("https://example.com/", [])
    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.1"):
        pinned_address(endpoint, lambda host, port: ["93.184.215.14", "10.0.0.1"])


def test_a_trusted_host_may_be_private() -> None:
    assert pinned_address(parse_endpoint("http://h/", ["h"]), lambda host, port: ["10.0.0.1"]) == "10.0.0.1"


def test_no_address() -> None:
    with pytest.raises(OSError, match="no address"):
        pinned_address(parse_endpoint("https://h/", []), lambda host, port: [])
