"""Follows the registry's topics into a `VersionTable`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from agents.serving.logic import VersionTable
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.events import AnyRegistryEvent, ModelState
from schemas.topics import REGISTRY_EVENTS, REGISTRY_STATE
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail
from streams.kafka.records import Record

log = logging.getLogger("driftline.serving")


class RegistryFollower:
    """`registry-state` from its beginning, `registry-events` from now on.

    The state is the truth; the events bring a promotion a little earlier. A record that cannot be decoded is logged and
    passed over: the last known state stands.
    """

    def __init__(self, kafka: KafkaConfig, table: VersionTable, *, timeout_s: float = 30.0) -> None:
        self.table = table
        self._timeout_s = timeout_s
        self._tail = Tail(
            kafka, [REGISTRY_STATE, REGISTRY_EVENTS], from_beginning=False, offsets={(REGISTRY_STATE, 0): 0}
        )
        self.catch_up()

    def poll(self) -> bool:
        """Take in what is there; whether anything changed."""
        return self._apply(self._tail.poll(0.0))

    def catch_up(self) -> bool:
        """Take in everything up to the present end of both topics."""
        return self._apply(self._tail.read_to_end(self._timeout_s))

    def close(self) -> None:
        self._tail.close()

    def _apply(self, records: Iterable[Record]) -> bool:
        changed = False
        for record in records:
            try:
                changed = self._apply_one(record) or changed
            except DecodeError as error:
                log.error("%s[%d]@%d: %s", record.topic, record.partition, record.offset, error)
        return changed

    def _apply_one(self, record: Record) -> bool:
        if record.topic == REGISTRY_EVENTS:
            event: AnyRegistryEvent = decode(record.value or b"", AnyRegistryEvent)  # type: ignore[arg-type]
            return self.table.apply_event(event)
        if record.value is None:
            self.table.forget((record.key or b"").decode(errors="replace"))
            return True
        return self.table.apply_state(decode(record.value, ModelState))
