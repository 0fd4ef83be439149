"""JSON lines to records: what `driftline produce` reads, checked before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from schemas import codec, topics
from schemas.errors import ConfigurationError, DecodeError

CONTENT = [("content-type", b"application/json")]
HEARTBEAT = [*CONTENT, ("ce_type", b"Heartbeat")]


class Message(NamedTuple):
    """One record to send; `every_partition` for heartbeats, which speak for each partition."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    every_partition: bool = False


def _request(line: bytes) -> list[Message]:
    key = codec.decode_request(line).request_id.encode()
    return [Message(topics.INFERENCE_REQUESTS, key, line, CONTENT)]


def _prediction(line: bytes) -> list[Message]:
    key = codec.decode_prediction(line).prediction_id.encode()
    return [Message(topics.PREDICTIONS, key, line, CONTENT)]


def _truth(line: bytes) -> list[Message]:
    key = codec.decode_ground_truth(line).prediction_id.encode()
    return [Message(topics.GROUND_TRUTH, key, line, CONTENT)]


def _heartbeat(line: bytes) -> list[Message]:
    # Only the time is sent. Whatever else the line holds (a prediction has a time, too) would go past the encryption.
    value = codec.encode(codec.decode_heartbeat(line))
    both = (topics.PREDICTIONS, topics.GROUND_TRUTH)
    return [Message(topic, None, value, HEARTBEAT, every_partition=True) for topic in both]


KINDS: dict[str, Callable[[bytes], list[Message]]] = {
    "requests": _request,
    "predictions": _prediction,
    "ground-truth": _truth,
    "heartbeat": _heartbeat,
}
"""What can be produced, by the word the command takes."""
TARGETS = {
    "requests": (topics.INFERENCE_REQUESTS, CONTENT),
    "predictions": (topics.PREDICTIONS, CONTENT),
    "ground-truth": (topics.GROUND_TRUTH, CONTENT),
    "heartbeat": (topics.PREDICTIONS, HEARTBEAT),
}


def _known(kind: str) -> str:
    aliases = {topics.INFERENCE_REQUESTS: "requests", "labels": "ground-truth", "heartbeats": "heartbeat"}
    name = aliases.get(kind, kind)
    if name not in KINDS:
        raise ConfigurationError(
            f"{kind!r} cannot be produced", where="driftline produce", remedy="accepted: " + ", ".join(KINDS)
        )
    return name


def reader(kind: str) -> Callable[[bytes], list[Message]]:
    """The parser of one kind.

    Raises
    ------
    ConfigurationError
        Where there is no such kind.
    """
    return KINDS[_known(kind)]


def messages(kind: str, lines: Iterable[bytes], *, source: str) -> Iterator[list[Message]]:
    """Parse lines one after the other; empty lines are passed over.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    lines : iterable of bytes
    source : str
        How errors name the file.

    Yields
    ------
    list of Message
        What one line becomes.

    Raises
    ------
    DecodeError
        At the first line that is not what `kind` carries, naming its number.
    """
    parse = reader(kind)
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line:
            continue
        try:
            yield parse(line)
        except DecodeError as error:
            raise DecodeError(
                error.what,
                reason=error.reason,
                where=f"{source}:{number}",
                remedy=f"fields of {kind}: docs/reference/events.schema.json; --raw KEY_FIELD sends lines unchecked",
            ) from error


def unchecked(kind: str, lines: Iterable[bytes], *, key_field: str) -> Iterator[list[Message]]:
    """Lines as they are: to see what Driftline does with bad input. Keyed by `key_field` where a line has it."""
    import msgspec

    target, headers = TARGETS[_known(kind)]
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        if not line:
            continue
        key: bytes | None = None
        try:
            value = msgspec.json.decode(line)
            key = str(value[key_field]).encode() if isinstance(value, dict) and key_field in value else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        yield [Message(target, key, line, headers)]


def parse_features(text: str) -> dict[str, float | int | str | bool | None]:
    """Features from a JSON object or from the file that ``@FILE`` names.

    Raises
    ------
    DecodeError
        Where it is no JSON object of numbers, strings, booleans and nulls.
    ConfigurationError
        Where the file cannot be read.
    """
    where = "--features"
    data = text.encode()
    if text.startswith("@"):
        where = text[1:]
        try:
            data = Path(where).read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"cannot be read: {error.strerror}", where=where, remedy="name a file with one JSON object"
            ) from error
    try:
        return codec.decode(data, dict[str, float | int | str | bool | None])
    except DecodeError as error:
        raise DecodeError(
            error.what,
            reason=error.reason,
            where=where,
            remedy="""write one JSON object: --features '{"distance": 509, "carrier": "UA"}'""",
        ) from error


def moment(text: str) -> int:
    """Milliseconds of an ISO 8601 time; without a zone it is UTC.

    Raises
    ------
    ConfigurationError
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is no time", where="ISO 8601", remedy="write 2013-02-01 or 2013-02-01T12:00:00Z"
        ) from error
    return codec.to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
