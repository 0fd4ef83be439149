"""Loads the native library and states its functions' types.

Notes
-----
Every call lets go of the interpreter lock. Buffers that are handed over must live until the call returns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Final

from schemas.errors import StateError

VERSION: Final = 1
"""Of the interface and of the state; raised together with that in `native/src/lib.rs`."""
FILE: Final = Path(__file__).with_name("libdriftline_hot.so")

ALL_DONE, REFERENCE, UNKNOWN_VERSION = 0, 1, 2
"""Why a kernel stopped."""
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
)
"""Totals in the order of the native counts; the newest event times of both topics follow."""
NOTHING_SEEN: Final = -(1 << 63)

_SIGNATURES: Final[dict[str, tuple[object, Sequence[object]]]] = {
    "dl_version": (c_uint32, ()),
    "dl_entry_size": (c_uint32, ()),
    "dl_new": (c_void_p, ()),
    "dl_free": (None, (c_void_p,)),
    "dl_plan_new": (c_void_p, (c_char_p, c_size_t)),
    "dl_plan_free": (None, (c_void_p,)),
    "dl_know": (c_int64, (c_void_p, c_char_p, c_size_t, c_int64, c_void_p)),
    "dl_known": (c_int64, (c_void_p, c_char_p, c_size_t, c_int64)),
    "dl_replace": (c_int64, (c_void_p, c_uint32, c_void_p)),
    "dl_begin": (None, (c_void_p, c_uint32, c_int64, c_uint32)),
    "dl_run": (
        c_int64,
        (
            *(c_void_p, c_uint32, c_char_p, c_size_t, c_void_p, c_void_p, c_char_p, c_size_t, c_size_t, c_void_p),
            *(POINTER(c_uint32), POINTER(c_int64)),
        ),
    ),
    "dl_advance": (c_int64, (c_void_p, c_int64)),
    "dl_counts": (None, (c_void_p, c_void_p)),
    "dl_add": (
        c_int64,
        (c_void_p, c_uint32, c_char_p, c_size_t, c_int64, c_int64, c_void_p, c_void_p, c_size_t),
    ),
    "dl_pack": (c_int64, (c_void_p,)),
    "dl_live": (c_int64, (c_void_p,)),
    "dl_symbols": (c_int64, (c_void_p, c_size_t, c_size_t, c_size_t)),
    "dl_text": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_segments": (c_int64, (c_void_p, c_void_p, c_size_t)),
    "dl_get": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_set_odd": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_drop_odd": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_put": (c_int64, (c_void_p, c_char_p, c_size_t, c_char_p)),
    "dl_commit": (c_int64, (c_void_p,)),
    "dl_abort": (c_int64, (c_void_p,)),
    "dl_load": (c_int64, (c_void_p, c_char_p, c_size_t)),
    "dl_export": (c_int64, (c_void_p,)),
    "dl_out": (c_void_p, (c_void_p,)),
    "dl_out_len": (c_size_t, (c_void_p,)),
    "dl_len": (c_size_t, (c_void_p,)),
    "dl_memory": (c_size_t, (c_void_p,)),
    "dl_id": (None, (c_char_p, c_size_t, c_void_p)),
    "dl_payload": (c_uint64, (c_char_p, c_size_t)),
    "dl_merge": (c_int64, (c_void_p, c_size_t, c_char_p, c_size_t)),
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


def checked(result: int, what: str) -> int:
    """The result of a call, unless it failed.

    Raises
    ------
    StateError
    """
    if result < 0:
        raise StateError(f"the native core failed at {what}", remedy="this is a fault of Driftline: please report it")
    return result
