"""The C library inside the Python client, for reading messages without making Python objects of them.

The Python client makes an object of every message, and asking each for its fields costs more than joining it. The
library that its wheel brings along is loaded already; this module calls the documented functions of its public header
(``rdkafka.h``) that the client does not pass on: the simple consumer with a queue for each partition.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import Final

import confluent_kafka

CONSUMER: Final = 1
_KNOWN_FROM: Final = 0x02000000
"""The functions used here are as old as 1.0; nothing before 2.0 was tried."""


class RawMessage(Structure):
    """``rd_kafka_message_t``."""

    _fields_ = (
        ("err", c_int32),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


_SIGNATURES: Final = {
    "rd_kafka_version": (c_int, []),
    "rd_kafka_conf_new": (c_void_p, []),
    "rd_kafka_conf_destroy": (None, [c_void_p]),
    "rd_kafka_conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
    "rd_kafka_conf_set_log_cb": (None, [c_void_p, c_void_p]),
    "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "rd_kafka_destroy": (None, [c_void_p]),
    "rd_kafka_poll": (c_int, [c_void_p, c_int]),
    "rd_kafka_topic_new": (c_void_p, [c_void_p, c_char_p, c_void_p]),
    "rd_kafka_topic_destroy": (None, [c_void_p]),
    "rd_kafka_queue_new": (c_void_p, [c_void_p]),
    "rd_kafka_queue_destroy": (None, [c_void_p]),
    "rd_kafka_queue_io_event_enable": (None, [c_void_p, c_int, c_char_p, c_size_t]),
    "rd_kafka_consume_start_queue": (c_int, [c_void_p, c_int32, c_int64, c_void_p]),
    "rd_kafka_consume_stop": (c_int, [c_void_p, c_int32]),
    "rd_kafka_last_error": (c_int, []),
    "rd_kafka_err2str": (c_char_p, [c_int]),
    "rd_kafka_get_watermark_offsets": (
        c_int,
        [c_void_p, c_char_p, c_int32, POINTER(c_int64), POINTER(c_int64)],
    ),
    "rd_kafka_message_headers": (c_int, [c_void_p, POINTER(c_void_p)]),
    "rd_kafka_header_get_all": (
        c_int,
        [c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t)],
    ),
}
FOR_READING: Final = (
    "rd_kafka_consume_batch_queue",
    "rd_kafka_message_timestamp",
    "rd_kafka_message_headers",
    "rd_kafka_header_get",
    "rd_kafka_message_destroy",
)
"""What the native core calls, in the order of ``Client`` in ``native/src/fetch.rs``."""


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where it cannot be used (another build of the client has it linked in statically)."""
    path = _path()
    if path is None:
        return None
    try:
        found = ctypes.CDLL(path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
        for name in FOR_READING:
            getattr(found, name)
    except (OSError, AttributeError):
        return None
    version = found.rd_kafka_version()
    # Another version than the client's own would be another library than the one that is loaded.
    if version < _KNOWN_FROM or version != confluent_kafka.libversion()[1]:
        return None
    return found


def addresses() -> tuple[int, ...]:
    """Where the functions `FOR_READING` are."""
    found = library()
    assert found is not None
    return tuple(ctypes.cast(getattr(found, name), c_void_p).value or 0 for name in FOR_READING)


def _path() -> str | None:
    try:
        listed = files("confluent-kafka") or []
    except PackageNotFoundError:
        return None
    for file in listed:
        if file.name.startswith("librdkafka") and ".so" in file.name:
            return str(file.locate())
        if file.name.startswith("librdkafka") and file.name.endswith(".dylib"):
            return str(file.locate())
    return None
