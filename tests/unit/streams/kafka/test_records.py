"""Dead letters carry the record as it came, or its digest."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import MAX_MESSAGE_BYTES
from streams.kafka.records import Record, dead_letter

HEADERS = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=50)), max_size=5)


def record(
    value: bytes | None, key: bytes | None = b"k", headers: list[tuple[str, bytes | None]] | None = None
) -> Record:
    return Record("predictions", 3, 42, key, value, headers, 0)


@given(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=50), st.none() | HEADERS, st.text())
def test_key_value_and_headers_are_passed_on_byte_for_byte(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]] | None, message: str
) -> None:
    letter = dead_letter(record(value, key, headers), "schema", message, "serving")
    given_headers = headers or []
    assert (letter.topic, letter.value, letter.key) == ("dlq.predictions", value, key)
    assert list(letter.headers or ())[: len(given_headers)] == given_headers


def test_headers_say_where_it_came_from_and_why() -> None:
    letter = dead_letter(record(b"{"), "malformed-json", "not JSON", "serving")
    assert dict(letter.headers or ()) == {
        "__dlq.errors.topic": b"predictions",
        "__dlq.errors.partition": b"3",
        "__dlq.errors.offset": b"42",
        "__dlq.errors.group": b"serving",
        "__dlq.errors.delivery.count": b"1",
        "__dlq.errors.reason": b"malformed-json",
        "__dlq.errors.message": b"not JSON",
    }


def test_a_long_message_is_cut() -> None:
    letter = dead_letter(record(b"{"), "schema", "x" * 1_000_000, "serving")
    assert len(dict(letter.headers or ())["__dlq.errors.message"] or b"") == 2_000


def test_an_oversize_value_is_replaced_by_its_digest() -> None:
    value = b"x" * (MAX_MESSAGE_BYTES + 1)
    letter = dead_letter(record(value, headers=[("trace", b"1")]), "oversize", "too large", "serving")
    assert json.loads(letter.value or b"") == {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    headers = dict(letter.headers or ())
    assert (letter.key, headers["trace"], headers["__dlq.errors.digest"]) == (b"k", b"1", b"sha256")


def test_oversize_headers_and_keys_cannot_wedge_the_stream_either() -> None:
    large = b"x" * MAX_MESSAGE_BYTES
    for oversize in (record(b"v", headers=[("large", large)]), record(b"v", key=large)):
        letter = dead_letter(oversize, "schema", "m", "g")
        parts = [letter.value, letter.key, *(data for _, data in letter.headers or ())]
        assert sum(len(part or b"") for part in parts) < MAX_MESSAGE_BYTES
