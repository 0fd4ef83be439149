"""`driftline principals sign`: a command or request of a person or service, signed so that the agents believe it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Json, document, say

if TYPE_CHECKING:
    from schemas.events import RegistryCommand, RetrainRequest


def sign(
    file: Annotated[Path, typer.Argument(help="The command, JSON; - reads standard input.", show_default=False)],
    *,
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key, PEM.", show_default=False)],
    send: Annotated[bool, typer.Option("--send", help="Send it to its topic.")] = False,
    audience: Annotated[
        str, typer.Option("--audience", help="CLUSTER/TOPIC it is for; default: asked from the broker.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Sign a command of `registry-commands` or a request of `retrain-requests`, and print or send it.

    The bytes of the file are what is signed and sent. A signature counts for ten minutes.
    """
    from agents.access.signatures import CommandSigner, audience_of
    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from agents.signing import PrivateKey
    from schemas import topics
    from schemas.errors import ConfigurationError
    from schemas.events import RetrainRequest
    from streams.kafka.producer import EventProducer

    value = _read(file)
    command = _command(value, str(file))
    private = PrivateKey(_read(key))
    asked = isinstance(command, RetrainRequest)
    topic = topics.RETRAIN_REQUESTS if asked else topics.REGISTRY_COMMANDS
    kafka = None if audience and not send else kafka_config(load_settings())
    if kafka is not None:
        here = audience_of(kafka, topic)
        if audience and audience != here:
            raise ConfigurationError(
                f"signed for {audience} it is refused here: this is {here}",
                where="--audience",
                remedy="leave --audience out, or --send",
            )
        audience, topic = here, kafka.topic(topic)
    else:
        topic = audience.partition("/")[2]
    record_key = command.model.encode()
    headers = CommandSigner(private, lambda: audience).headers(record_key, value)
    if send:
        assert kafka is not None
        with EventProducer(kafka) as producer:
            producer.send(topics.RETRAIN_REQUESTS if asked else topics.REGISTRY_COMMANDS, value, record_key, headers)
    told = {name: content.decode() for name, content in headers}
    if as_json:
        done = {"topic": topic, "key": command.model, "headers": told, "value": value.decode(), "signed_by": private.id}
        document({**done, "sent": send})
        return
    say(f"{'sent to' if send else 'for'} {topic}, key {command.model}, signed by {private.id}")
    if not send:
        for name, text in told.items():
            say(f"{name}: {text}")


def _read(path: Path) -> bytes:
    from schemas.errors import ConfigurationError

    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _command(value: bytes, where: str) -> RegistryCommand | RetrainRequest:
    """What the bytes ask for: a command has a ``type``, a request has none."""
    from schemas.codec import decode
    from schemas.errors import ConfigurationError, DecodeError
    from schemas.events import AnyRegistryCommand, RetrainRequest

    try:
        command: RegistryCommand = decode(value, AnyRegistryCommand)  # type: ignore[arg-type]
        return command
    except DecodeError as error:
        try:
            return decode(value, RetrainRequest)
        except DecodeError as other:
            said = error.what if b'"type"' in value else other.what
            raise ConfigurationError(
                f"neither a command nor a request: {said}", where=where, remedy="see docs/reference/commands.md"
            ) from error
