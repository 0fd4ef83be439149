"""The base of control-plane agents: a Faust app that hands each record to a handler in one database transaction.

Delivery is at least once and effects count once: inbox row, effect and outbox rows commit together, then the offset is
committed. What Faust does by itself with acknowledgements is not used (an agent's exception would acknowledge the
record): topics are declared without acknowledgements and this module commits what was handled.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from agents.access.signatures import CommandSigner
from agents.config import Settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.inbox import seen_before
from agents.database.outbox import OutboxRelay
from schemas.codec import derived_id
from schemas.errors import BrokerError, DecodeError
from schemas.topics import DEAD_LETTERED, REGISTRY_COMMANDS, RETRAIN_REQUESTS
from streams.kafka.admin import missing_topic, partition_counts
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.records import Record, dead_letter

Handler = Callable[[Session, Record], DecodeError | None]
RELAY_POLL_S = 0.2
PRUNE_EVERY_S = 3_600.0
WATCHDOG_S = 60.0
WATCHDOG_EVERY_S = 5.0
JOIN_S = 10.0
TICK_S = 0.05

log = logging.getLogger(__name__)


class Background(NamedTuple):
    """Work beside the stream: called every `every_s` seconds in a thread of its own; an exception ends the process."""

    every_s: float
    run: Callable[[], None]


def run_control_agent(  # noqa: PLR0917
    name: str,
    topics: str | Sequence[str],
    handler: Handler,
    settings: Settings,
    kafka: KafkaConfig,
    stop: threading.Event,
    *,
    background: Sequence[Background] = (),
    sessions: Sessions | None = None,
    on_ready: Callable[[], None] | None = None,
    relay_poll_s: float = RELAY_POLL_S,
    watchdog_s: float = WATCHDOG_S,
) -> None:
    """Run a control-plane agent until `stop` is set.

    Parameters
    ----------
    name : str
        The agent; also its consumer group, its inbox and its outbox.
    topics : str or sequence of str
        Names without prefix. Records of one partition arrive in order; there is no order between topics.
    handler : callable
        ``handler(session, record)``: decide, write, `enqueue` events. The session is committed by the caller. It runs
        in a thread of its own, one record at a time. `DecodeError` sends the record to its dead-letter topic (where
        it has one) and goes on: raised, nothing that was written stays; returned, it does. Any other exception rolls
        back and ends the process: after the restart the record comes again.
    background : sequence of Background
    sessions : Sessions, optional
        Default: sessions on `Settings.database`.
    on_ready : callable, optional
        Called once the agent has its first assignment.
    relay_poll_s : float
        How often the outbox is looked into for rows of other processes; rows of handlers are sent at once.
    watchdog_s : float
        The process ends when records wait and nothing moved for so long.

    Raises
    ------
    TopicError
        A topic does not exist; names topic, broker and what to do.
    BrokerUnreachableError
    Exception
        What a handler or a background callable raised.
    """
    names = [topics] if isinstance(topics, str) else list(topics)
    _check_topics(kafka, names)
    sessions = sessions or session_factory(make_engine(settings.database))
    with EventProducer(kafka) as producer:
        agent = _ControlAgent(
            name=name,
            topics=names,
            handler=handler,
            slot=settings.slot,
            home=settings.home.resolve(),
            kafka=kafka,
            stop=stop,
            sessions=sessions,
            producer=producer,
            on_ready=on_ready,
            watchdog_s=watchdog_s,
        )
        agent.run(background, relay_poll_s)


def _check_topics(kafka: KafkaConfig, names: Sequence[str]) -> None:
    existing = partition_counts(kafka)
    for name in names:
        if name not in existing:
            raise missing_topic(kafka, name)


class _Worker:
    """One daemon thread for the handler: a slow handler does not block heartbeats, a hung one not the end."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[Record], None], Record, asyncio.Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="handler", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[Record], None], record: Record) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.put((function, record, future))
        await future

    def close(self, timeout_s: float) -> None:
        """Let the call that runs finish, if it does so in time."""
        self._calls.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, record, future = call
            error: BaseException | None = None
            try:
                function(record)
            except BaseException as raised:  # noqa: BLE001  handed to whoever awaits
                error = raised
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                future.get_loop().call_soon_threadsafe(_resolve, future, error)


def _resolve(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


@dataclass(kw_only=True)
class _ControlAgent:
    """One run of an agent: Faust's loop, the handler's thread, the relay's thread, background threads."""

    name: str
    topics: Sequence[str]
    handler: Handler
    slot: str
    home: Path
    kafka: KafkaConfig
    stop: threading.Event
    sessions: Sessions
    producer: EventProducer
    on_ready: Callable[[], None] | None
    watchdog_s: float
    worker: _Worker = field(default_factory=_Worker)
    failure: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    wake_relay: threading.Event = field(default_factory=threading.Event)
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    done: dict[tuple[str, int], int] = field(default_factory=dict)
    handled: int = 0
    busy: bool = False

    # ------------------------------------------------------------------------------------------ life

    def run(self, background: Sequence[Background], relay_poll_s: float) -> None:
        threads = [threading.Thread(target=self._guard, args=(self._relay, relay_poll_s), name="relay", daemon=True)]
        threads += [
            threading.Thread(target=self._guard, args=(self._periodic, job), name="background", daemon=True)
            for job in background
        ]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001  raised below, after the threads ended
            self.failure = self.failure or error
        finally:
            # What a failing process leaves unfinished is rolled back and comes again.
            self.worker.close(JOIN_S if self.failure is None else 0.5)
            self.ended.set()
            self.wake_relay.set()
            for thread in threads:
                thread.join(JOIN_S)
        if self.failure is not None:
            raise self.failure

    def fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self.ended.set()

    @property
    def ending(self) -> bool:
        return self.stop.is_set() or self.ended.is_set()

    def _guard(self, target: Callable[..., None], *args: object) -> None:
        try:
            target(*args)
        except BaseException as error:  # noqa: BLE001  carried to the main thread, which ends the process
            self.fail(error)

    def _relay(self, poll_s: float) -> None:
        readers = session_factory(self.sessions.kw["bind"], read_only=True)
        signed = (REGISTRY_COMMANDS, RETRAIN_REQUESTS)
        sign = {topic: CommandSigner.of(self.home, self.kafka, topic).headers for topic in signed}
        relay = OutboxRelay(self.sessions, self.producer, self.name, owner=self.slot, readers=readers, sign=sign)
        prune_at = time.monotonic() + PRUNE_EVERY_S
        while not self.ended.is_set():
            self.wake_relay.wait(poll_s)
            self.wake_relay.clear()
            relay.publish_pending()
            if time.monotonic() > prune_at:
                relay.prune()
                prune_at += PRUNE_EVERY_S
        # What the last handled record left.
        relay.publish_pending()

    def _periodic(self, job: Background) -> None:
        while not self.ended.wait(job.every_s):
            job.run()

    # ------------------------------------------------------------------------------------------ Faust

    async def _main(self) -> None:
        app = self._app()
        self._declare(app)
        await app.start()
        try:
            await self._watch(app)
        finally:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(app.stop(), 15)
        crash = getattr(app, "crash_reason", None)
        if crash is not None and self.failure is None:
            self.failure = BrokerError(f"the Faust app ended: {crash}", where=self.kafka.bootstrap_servers)

    def _app(self) -> Any:
        from faust import App

        from agents.control_transport import CommittedTransport, faust_settings

        for noisy in ("faust", "mode", "aiokafka", "agents.control_transport"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # Says ERROR while a new broker makes its offsets topic, and tries again. What stays, the watchdog finds.
        logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)
        folder = self.home / "faust" / self.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        servers = ";".join(f"kafka://{server.strip()}" for server in self.kafka.bootstrap_servers.split(","))
        app = App(
            self.kafka.group(self.name),
            broker=servers,
            datadir=str(folder),
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            broker_commit_interval=0.1,
            broker_session_timeout=30.0,
            broker_heartbeat_interval=3.0,
            broker_max_poll_interval=600.0,
            stream_wait_empty=False,
            stream_buffer_maxsize=256,
            store="memory://",
            **faust_settings(self.kafka.properties),
        )
        app.transport = CommittedTransport(app.conf.broker, app, loop=None)
        return app

    def _declare(self, app: Any) -> None:
        channel = app.topic(
            *(self.kafka.topic(topic) for topic in self.topics),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            acks=False,
        )

        async def process(stream: Any) -> None:
            async for event in stream.noack().events():
                message = event.message
                record = self._record(message)
                self.busy = True
                try:
                    await self.worker.call(self._handle, record)
                except asyncio.CancelledError:
                    raise
                except BaseException as error:  # noqa: BLE001  carried to the main thread
                    self.fail(error)
                    # Never go on to the next record: its offset would cover this one.
                    await asyncio.Event().wait()
                self.busy = False
                self.handled += 1
                self.done[message.topic, message.partition] = message.offset + 1
                self.dirty.set()

        app.agent(channel, name=f"{self.name}-agent", concurrency=1)(process)

        @app.task  # type: ignore[untyped-decorator]
        async def commit() -> None:
            # As soon as something was handled, and all that was handled meanwhile at once.
            while not self.ending:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.dirty.wait(), 0.5)
                await self._commit(app)

    async def _commit(self, app: Any) -> None:
        self.dirty.clear()
        offsets, self.done = self.done, {}
        if offsets:
            await app.consumer.commit_offsets(offsets)

    def _record(self, message: Any) -> Record:
        headers = message.headers.items() if isinstance(message.headers, dict) else message.headers
        return Record(
            topic=self.kafka.without_prefix(message.topic),
            partition=message.partition,
            offset=message.offset,
            key=message.key,
            value=message.value,
            headers=list(headers) if headers else None,
            timestamp_ms=round(message.timestamp * 1000) if message.timestamp is not None else 0,
        )

    # ---------------------------------------------------------------------------------------- handling

    def _handle(self, record: Record) -> None:
        refused: DecodeError | None = None
        try:
            with self.sessions.begin() as session:
                if seen_before(session, self.name, event_identity(record)):
                    return
                refused = self.handler(session, record)
            if refused is not None:
                raise refused
        except DecodeError as error:
            self._dead_letter(record, error)
        self.wake_relay.set()

    def _dead_letter(self, record: Record, error: DecodeError) -> None:
        log.warning("%s %d/%d: %s: %s", record.topic, record.partition, record.offset, error.reason, error.what)
        if record.topic not in DEAD_LETTERED:
            return  # our own agents wrote it: the log is all there is
        letter = dead_letter(record, error.reason, error.what, self.name)
        headers = [(name, value or b"") for name, value in letter.headers or ()]
        self.producer.send(letter.topic, letter.value, letter.key, headers)
        self.producer.flush()

    # ---------------------------------------------------------------------------------------- watching

    async def _watch(self, app: Any) -> None:
        """Until told to stop: readiness, crashes, and the watchdog."""
        ready = False
        seen: object = None
        moved_at = checked_at = time.monotonic()
        every_s = min(WATCHDOG_EVERY_S, self.watchdog_s / 4)
        while not self.ending and not app.should_stop:
            await asyncio.sleep(TICK_S)
            if not ready and app.consumer.assignment() and not app.rebalancing:
                ready = True
                if self.on_ready is not None:
                    self.on_ready()
            now = time.monotonic()
            if now - checked_at < every_s:
                continue
            checked_at = now
            try:
                progress = await asyncio.wait_for(app.consumer.progress(), WATCHDOG_EVERY_S)
            except Exception:  # noqa: BLE001, S112  the broker does not answer: nothing is known to wait
                continue
            waiting = self.busy or any(position < end for position, end in progress.values())
            state = (self.handled, {partition: position for partition, (position, _) in progress.items()})
            if not waiting or state != seen:
                seen, moved_at = state, now
            elif now - moved_at > self.watchdog_s:
                raise BrokerError(
                    f"records wait and nothing moved for {now - moved_at:.0f} s at {progress}",
                    where=f"agent {self.name}",
                    remedy="the supervisor starts it again; if this repeats, look at the handler",
                )
        await self._commit(app)


def event_identity(record: Record) -> str:
    """What makes a redelivered record the same: its CloudEvents source and id, else its position and content."""
    headers = dict(record.headers or ())
    if event_id := headers.get("ce_id"):
        return derived_id(record.topic, headers.get("ce_source"), event_id)
    return derived_id(record.topic, record.partition, record.offset, record.key, record.value)
