"""The join benchmark's peers by name, in the order they are measured."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.kafka_streams import KafkaStreams
from benchmarks.peers.python_programs import Faust, QuixStreams

_ALL: tuple[Peer, ...] = (
    KafkaStreams("kafka_streams_eos", "exactly_once_v2"),
    KafkaStreams("kafka_streams_alo", "at_least_once"),
    KafkaStreams("kafka_streams_eos_lean", "exactly_once_v2", lean=True),
    QuixStreams(),
    Faust(),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
