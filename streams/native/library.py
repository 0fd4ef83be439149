"""Loads the native library and states its functions' types.

Notes
-----
Every call lets go of the interpreter lock. Buffers that are handed over must live until the call returns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Final

import numpy as np

from schemas.errors import StateError

VERSION: Final = 5
"""Of the interface and of the state; raised together with that in `native/src/lib.rs`."""
FILE: Final = Path(__file__).with_name("libdriftline_hot.so")

ALL_DONE, REFERENCE, UNKNOWN_VERSION, LABEL_RECORDS = 0, 1, 2, 3
"""Why a kernel stopped; the last: a label has to wait, and offsets and keys were not given."""
NOT_KNOWN: Final = -1

COUNTS: Final = (
    "predictions",
    "pending",
    "labelled",
    "expired",
    "predictions.duplicate",
    "predictions.skipped",
    "labels",
    "labels.matched",
    "labels.duplicate",
    "labels.waiting",
    "labels.orphaned",
)
"""Totals in the order of the native counts; the newest event times of both topics follow."""
NOTHING_SEEN: Final = -(1 << 63)

MARK_ODD, MARK_HEADERS, MARK_NO_KEY = 1, 2, 4
"""What a record is marked with: it is not for the core, it has headers, it has no key."""


class Told(ctypes.Structure):
    """What one read of a partition brought; `end` and `error` are -1 and 0 where there was none."""

    _fields_ = (
        ("count", c_int64),
        ("offset", c_int64),
        ("timestamp_ms", c_int64),
        ("end", c_int64),
        ("error", c_int64),
        ("error_offset", c_int64),
    )


_Times = np.ndarray[tuple[int], np.dtype[np.int64]]


class Piece(ctypes.Structure):
    """Some records of one topic, column by column, as the core reads them; keeps what it points to alive."""

    _fields_ = (
        ("count", c_size_t),
        ("data", c_char_p),
        ("data_bytes", c_size_t),
        ("ends", c_void_p),
        ("timestamps_ms", c_void_p),
        ("marks", c_char_p),
        ("offsets", c_void_p),
        ("keys", c_char_p),
        ("keys_bytes", c_size_t),
        ("key_ends", c_void_p),
    )

    @classmethod
    def of(cls, values: Sequence[bytes], timestamps_ms: _Times, marks: bytes | bytearray) -> Piece:
        """Values with their timestamps and marks; without offsets and keys."""
        data, ends = _concatenated(values)
        self = cls(len(values), data, len(data), ends.ctypes.data, timestamps_ms.ctypes.data, bytes(marks))
        self._marks = marks
        self._kept = (ends, timestamps_ms)
        return self

    def add_keys(self, offsets: _Times, keys: Sequence[bytes | None]) -> None:
        """Offsets and keys, where a label has to wait."""
        if None in keys:
            self.marks = bytes(
                mark | (MARK_NO_KEY if key is None else 0) for mark, key in zip(self._marks, keys, strict=True)
            )
        data, ends = _concatenated([key or b"" for key in keys])
        self.offsets, self.keys, self.keys_bytes = offsets.ctypes.data, data, len(data)
        self.key_ends = ends.ctypes.data
        self._kept_keys = (offsets, ends)


def _concatenated(values: Sequence[bytes]) -> tuple[bytes, np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    ends = np.cumsum(np.fromiter(map(len, values), np.uint64, len(values)), dtype=np.uint64)
    return b"".join(values), ends


READ: Final = ctypes.CFUNCTYPE(c_int32, c_void_p, c_size_t, c_void_p)
"""Reads chunks of the log: their positions, how many, and what goes to `dl_give`."""

_SIGNATURES: Final[dict[str, tuple[object, Sequence[object]]]] = {
    "dl_version": (c_uint32, ()),
    "dl_entry_size": (c_uint32, ()),
    "dl_new": (c_void_p, (c_uint32, c_uint32, c_uint64)),
    "dl_source": (None, (c_void_p, READ)),
    "dl_give": (None, (c_void_p, c_char_p, c_size_t)),
    "dl_budget": (c_int64, (c_void_p, c_size_t)),
    "dl_warm": (c_int64, (c_void_p,)),
    "dl_log": (None, (c_void_p, c_void_p)),
    "dl_free": (None, (c_void_p,)),
    "dl_plan_new": (c_void_p, (c_char_p, c_size_t)),
    "dl_plan_free": (None, (c_void_p,)),
    "dl_know": (c_int64, (c_void_p, c_char_p, c_size_t, c_int64, c_void_p)),
    "dl_known": (c_int64, (c_void_p, c_char_p, c_size_t, c_int64)),
    "dl_elsewhere": (None, (c_void_p, c_char_p, c_size_t)),
    "dl_replace": (c_int64, (c_void_p, c_uint32, c_void_p)),
    "dl_begin": (None, (c_void_p, c_uint32, c_int64, c_uint32)),
    "dl_run": (
        c_int64,
        (
            *(c_void_p, c_uint32, POINTER(Piece), c_size_t, c_void_p),
            *(POINTER(c_uint32), POINTER(c_int64)),
        ),
    ),
    "dl_run_batch": (
        c_int64,
        (
            *(c_void_p, c_uint32, c_void_p, c_size_t, c_void_p),
            *(POINTER(c_uint32), POINTER(c_int64)),
        ),
    ),
    "dl_batch_new": (c_void_p, (c_void_p,)),
    "dl_batch_free": (None, (c_void_p,)),
    "dl_batch_read": (c_int64, (c_void_p, c_void_p, c_size_t, POINTER(Told))),
    "dl_batch_split": (c_void_p, (c_void_p, c_size_t)),
    "dl_batch_message": (c_void_p, (c_void_p, c_size_t)),
    "dl_batch_timestamp": (c_int64, (c_void_p, c_size_t)),
    "dl_batch_error": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "dl_advance": (c_int64, (c_void_p, c_int64)),
    "dl_counts": (None, (c_void_p, c_void_p)),
    "dl_count_columns": (c_int64, (c_void_p, c_size_t)),
    "dl_add": (
        c_int64,
        (c_void_p, c_uint32, c_char_p, c_size_t, c_int64, c_int64, c_void_p, c_void_p, c_size_t),
    ),
    "dl_records": (c_int64, (c_void_p, c_int64, c_uint32)),
    "dl_live": (c_int64, (c_void_p,)),
    "dl_symbols": (c_int64, (c_void_p, c_size_t, c_size_t, c_size_t)),
    "dl_text": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_segments": (c_int64, (c_void_p, c_void_p, c_size_t)),
    "dl_get": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_set_odd": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_drop_odd": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_put": (c_int64, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)),
    "dl_bare": (c_int64, (c_void_p,)),
    "dl_headers": (c_int64, (c_void_p, c_uint32, c_char_p, c_size_t)),
    "dl_commit": (c_int64, (c_void_p,)),
    "dl_abort": (c_int64, (c_void_p,)),
    "dl_load": (c_int64, (c_void_p, c_void_p, c_size_t, c_char_p, c_size_t)),
    "dl_export": (c_int64, (c_void_p, c_uint64)),
    "dl_out": (c_void_p, (c_void_p,)),
    "dl_out_len": (c_size_t, (c_void_p,)),
    "dl_len": (c_size_t, (c_void_p,)),
    "dl_memory": (c_size_t, (c_void_p,)),
    "dl_id": (None, (c_char_p, c_size_t, c_void_p)),
    "dl_payload": (c_uint64, (c_char_p, c_size_t)),
    "dl_shelf_new": (c_void_p, ()),
    "dl_shelf_free": (None, (c_void_p,)),
    "dl_shelf_out": (c_void_p, (c_void_p,)),
    "dl_shelf_out_len": (c_size_t, (c_void_p,)),
    "dl_shelf_merge": (c_int64, (c_void_p, c_char_p, c_size_t, c_size_t, POINTER(c_uint32))),
    "dl_shelf_open": (c_int64, (c_void_p, c_char_p, c_size_t, c_int64, c_char_p, c_size_t, c_int64)),
    "dl_shelf_add": (
        c_int64,
        (c_void_p, c_uint32, c_int64, c_char_p, c_size_t, c_int64, c_char_p, c_size_t),
    ),
    "dl_shelf_first": (c_int64, (c_void_p, c_uint32)),
    "dl_shelf_read": (c_int64, (c_void_p, c_uint32, c_int64, c_uint32)),
    "dl_shelf_hold": (None, (c_void_p, c_uint32, c_uint32)),
    "dl_shelf_asked": (None, (c_void_p, c_uint32)),
    "dl_shelf_remove": (c_int64, (c_void_p, c_uint32)),
    "dl_shelf_batch": (c_int64, (c_void_p, c_uint32)),
    "dl_shelf_memory": (c_size_t, (c_void_p,)),
}


def _load() -> tuple[ctypes.CDLL | None, str]:
    if not FILE.exists():
        return None, f"{FILE.name} was not built (a Rust toolchain builds it: scripts/native.sh)"
    try:
        found = ctypes.CDLL(str(FILE))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        return None, f"{FILE.name} cannot be used: {error}"
    if found.dl_version() != VERSION:
        return None, f"{FILE.name} is of version {found.dl_version()}, expected {VERSION}: run scripts/native.sh"
    return found, ""


_library, WHY_NOT = _load()
"""`WHY_NOT` says why there is no library; empty where there is one."""


def available() -> bool:
    """Whether the native core can be used."""
    return _library is not None


def library() -> ctypes.CDLL:
    """The library.

    Raises
    ------
    StateError
        It was not built, or is of another version.
    """
    if _library is None:
        raise StateError(f"no native core: {WHY_NOT}", remedy="use the reference implementation, or build it")
    return _library


def checked(result: int, what: str, cause: Exception | None = None) -> int:
    """The result of a call, unless it failed.

    Parameters
    ----------
    result : int
    what : str
        What was called, for the message.
    cause : Exception, optional
        What Python raised inside the call, if anything.

    Raises
    ------
    StateError
    """
    if result < 0:
        if cause is not None:
            raise cause
        raise StateError(f"the native core failed at {what}", remedy="this is a fault of Driftline: please report it")
    return result
