"""`driftline produce`, `subscribe` and `predict`: traffic by hand, through the real topics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from agents.commands.output import Json, add, document, line, note, say

if TYPE_CHECKING:
    from streams.kafka.config import KafkaConfig
    from streams.kafka.records import Record

FLUSH_TIMEOUT_S = 30.0
POLL_S = 0.2


def produce(
    kind: Annotated[str, typer.Argument(help="requests, predictions, ground-truth or heartbeat.", show_default=False)],
    file: Annotated[Path | None, typer.Argument(help="JSON lines; standard input where absent or '-'.")] = None,
    *,
    raw: Annotated[
        str,
        typer.Option("--raw", help="Send lines unchecked, keyed by this field (to test bad input)."),
    ] = "",
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Requests: wait so many seconds for all predictions.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Send JSON lines to a traffic topic, keyed and partitioned as Driftline expects; wait until the broker has them.

    Every line is checked first. At the first wrong one nothing more is sent; the message says how many lines went
    before it. What is personal is encrypted. A heartbeat says on every partition of both topics that
    nothing older is still to come.
    """
    from agents.bootstrap import kafka_config
    from agents.commands.lines import messages, reader, unchecked
    from agents.config import load_settings
    from agents.subjects.sending import Sealer
    from schemas import topics
    from schemas.errors import DriftlineError
    from streams.kafka.producer import EventProducer

    settings = load_settings()
    reader(kind)
    source = str(file) if file and str(file) != "-" else "standard input"
    kafka = kafka_config(settings)
    lines = records = 0
    failure: DriftlineError | None = None
    answers = Answers(kafka) if wait else None
    sealer = Sealer.of(settings)
    sealed = sealer.unchecked if raw else sealer.value
    with EventProducer(kafka) as producer:
        lines_in = _lines(file)
        parsed = unchecked(kind, lines_in, key_field=raw) if raw else messages(kind, lines_in, source=source)
        try:
            for group in parsed:
                lines += 1
                for message in group:
                    value = message.value if message.every_partition else sealed(message.topic, message.value)
                    if answers is not None and message.topic == topics.INFERENCE_REQUESTS:
                        answers.expect(message.key)
                    for partition in range(settings.partitions) if message.every_partition else (-1,):
                        producer.send(message.topic, value, message.key, message.headers, partition)
                        records += 1
        except DriftlineError as error:
            failure = error
        producer.flush(FLUSH_TIMEOUT_S)
    if failure is not None:
        failure.what += f" ({lines} lines before it were sent)"
        raise failure
    facts = {"kind": kind, "lines": lines, "records": records}
    text = f"sent {lines} lines ({records} records) of {kind}"
    if answers is not None:
        answered, refused = answers.wait(wait)
        facts |= {"answered": answered, "refused": refused}
        text += f"; {answered} answered, {refused} refused"
    if as_json:
        document(facts)
    else:
        say(text)


class Answers:
    """Waits until each of some requests has its prediction or its dead letter.

    Parameters
    ----------
    kafka : KafkaConfig
        Made before the requests are sent: an answer cannot be missed.
    """

    def __init__(self, kafka: KafkaConfig) -> None:
        from schemas import topics
        from streams.kafka.reader import Tail

        self._refusing = topics.dead_letter_topic(topics.INFERENCE_REQUESTS)
        self._tail = Tail(kafka, [topics.PREDICTIONS, self._refusing], False)
        self._open: set[bytes | None] = set()

    def expect(self, key: bytes | None) -> None:
        """One more request."""
        self._open.add(key)

    def wait(self, timeout_s: float) -> tuple[int, int]:
        """How many were answered, and how many refused.

        Raises
        ------
        BrokerError
            Some were neither in time.
        """
        import time

        from schemas.errors import BrokerError

        deadline = time.monotonic() + timeout_s
        ended = {False: 0, True: 0}
        try:
            while self._open and time.monotonic() < deadline:
                for record in self._tail.poll(POLL_S):
                    if record.key in self._open:
                        self._open.discard(record.key)
                        ended[record.topic == self._refusing] += 1
        finally:
            self._tail.close()
        if self._open:
            raise BrokerError(
                f"{len(self._open)} requests were not answered within {timeout_s:g} s ({ended[False]} were)",
                where="serving",
                remedy="they stay on the topic and will be; `driftline status` tells how far serving is behind",
            )
        return ended[False], ended[True]


def _lines(file: Path | None) -> Iterator[bytes]:
    from schemas.errors import ConfigurationError

    def opened() -> BinaryIO:
        if file is None or str(file) == "-":
            return sys.stdin.buffer
        return file.open("rb")

    try:
        with opened() as stream:
            yield from stream
    except OSError as error:
        raise ConfigurationError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            remedy="name a file of JSON lines, or - for standard input",
        ) from error


def subscribe(
    topic: Annotated[str, typer.Argument(help="Topic, without the installation's prefix.")] = "alerts",
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record kept.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="End after so many records; 0: never.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="End after so many silent seconds; 0: never.")] = 0,
    model: Annotated[str, typer.Option("--model", help="Only records of this model.")] = "",
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Print topic, partition, offset, time, key and headers around the value.")
    ] = False,
) -> None:
    """Print records of a topic as JSON lines as they come: alerts, unless you name another. Ctrl-C ends it.

    Reads without a consumer group: it neither commits nor takes anything from the agents.
    """
    import time

    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from schemas.errors import TopicError
    from schemas.topics import CATALOGUE
    from streams.kafka.reader import Tail

    if topic not in CATALOGUE:
        raise TopicError(f"no topic {topic!r}", where="driftline subscribe", remedy="one of: " + ", ".join(CATALOGUE))
    tail = Tail(kafka_config(load_settings()), [topic], from_beginning)
    printed, silent_since = 0, time.monotonic()
    try:
        while not limit or printed < limit:
            for record in tail.poll(POLL_S):
                silent_since = time.monotonic()
                value = shown(record, envelope=envelope)
                if model and not about(record, model):
                    continue
                line(value)
                printed += 1
                if printed == limit:
                    break
            if timeout and time.monotonic() - silent_since > timeout:
                break
    except KeyboardInterrupt:
        note("")
    finally:
        tail.close()


def about(record: Record, model: str) -> bool:
    """Whether a record speaks of `model`: by its key, or by its value's field (traffic is keyed by id)."""
    value = _parsed(record.value)
    return record.key == model.encode() or (isinstance(value, dict) and value.get("model") == model)


def shown(record: Record, *, envelope: bool) -> Any:
    """A record as `subscribe` prints it: its value, or its value with everything around it."""
    value = _parsed(record.value)
    if not envelope:
        return value
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "headers": {name: (data or b"").decode(errors="replace") for name, data in record.headers or []},
        "value": value,
    }


def _parsed(value: bytes | None) -> Any:
    """JSON where it is JSON; else the text (dead letters carry what was received)."""
    import msgspec

    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value.decode(errors="replace")


def predict(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    *,
    features: Annotated[str, typer.Option("--features", "-f", help="JSON object, or @FILE.", show_default=False)],
    event_time: Annotated[str, typer.Option("--event-time", help="ISO 8601; default: now.")] = "",
    request_id: Annotated[str, typer.Option("--id", help="Request id, which becomes the prediction_id.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Ask for one prediction through the topics and wait for the answer of the serving agent."""
    import time
    import uuid

    from agents.bootstrap import kafka_config
    from agents.commands.lines import moment, parse_features
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from agents.subjects.sending import Sealer
    from schemas import codec, topics
    from schemas.errors import BrokerError
    from schemas.events import InferenceRequest
    from streams.kafka.producer import EventProducer
    from streams.kafka.reader import Tail

    request = InferenceRequest(
        request_id=request_id or uuid.uuid4().hex,
        model=model,
        event_time_ms=moment(event_time) if event_time else time.time_ns() // 1_000_000,
        features=parse_features(features),
    )
    settings = load_settings()
    RegistryDecisions.of(settings).refuse_watched(model, "asked for a prediction")
    request = Sealer.of(settings).request(request)
    kafka = kafka_config(settings)
    key = request.request_id.encode()
    refused = topics.dead_letter_topic(topics.INFERENCE_REQUESTS)
    tail = Tail(kafka, [topics.PREDICTIONS, refused], False)
    started = time.monotonic()
    try:
        tail.read_to_end(timeout)  # positions are fixed before the request goes out: the answer cannot be missed
        with EventProducer(kafka) as producer:
            headers = codec.cloudevent_headers(request, event_id=request.request_id, source="/driftline/cli")
            producer.send(topics.INFERENCE_REQUESTS, codec.encode(request), key, headers)
            producer.flush(timeout)
        while time.monotonic() - started < timeout:
            for record in tail.poll(POLL_S):
                if record.key != key:
                    continue
                if record.topic == refused:
                    raise BrokerError(
                        f"the request was refused: {_refusal(record)}",
                        where=f"{refused}, offset {record.offset}",
                        remedy="`driftline models` lists what is served; compare the features with driftline.toml",
                    )
                answer = codec.decode_prediction(record.value or b"")
                elapsed_ms = round((time.monotonic() - started) * 1000, 1)
                if as_json:
                    document({"prediction": answer, "milliseconds": elapsed_ms})
                    return
                say(f"prediction   {answer.prediction}")
                if answer.probability is not None:
                    say(f"probability  {answer.probability}")
                say(f"version      {answer.model} {answer.version}")
                say(f"id           {answer.prediction_id}   ({elapsed_ms} ms)")
                return
    finally:
        tail.close()
    raise BrokerError(
        f"no answer within {timeout:g} s",
        where=f"request {request.request_id} on {topics.INFERENCE_REQUESTS}",
        remedy="`driftline status` tells whether the serving agent runs and how far it is behind",
    )


def _refusal(record: Record) -> str:
    headers = dict(record.headers or [])
    message = (headers.get("__dlq.errors.message") or b"").decode(errors="replace").strip()
    return message.splitlines()[0] if message else "no reason given"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "produce", produce, panel="Traffic")
    add(app, "subscribe", subscribe, panel="Traffic")
    add(app, "predict", predict, panel="Traffic")
