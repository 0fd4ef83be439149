"""Entries without what is known only through a key: as a rebuild makes them once that key is gone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from streams.join.entries import Entry, JoinedPrediction


class Bare(NamedTuple):
    """What stays of a prediction.

    Parameters
    ----------
    payload : bytes
        Hash of its bytes as they came, instead of that of what they meant.
    visible : tuple of str
        Names whose segments it keeps.
    """

    payload: bytes
    visible: tuple[str, ...]


def without(entry: Entry, bare: Mapping[bytes, Bare]) -> Entry:
    """The entry with some predictions laid bare, by the hash of their payload.

    Notes
    -----
    What was counted stays counted. Labels to come count overall, and no more in the segments that are gone.
    """
    predictions = tuple(
        _without(joined, bare[joined.payload]) if joined.payload in bare else joined for joined in entry.predictions
    )
    return msgspec.structs.replace(entry, predictions=predictions)


def _without(joined: JoinedPrediction, bare: Bare) -> JoinedPrediction:
    compact = joined.compact
    kept = tuple(key for key in compact.segments if not key or any(key.startswith(f"{name}=") for name in bare.visible))
    compact = msgspec.structs.replace(compact, segments=kept)
    return msgspec.structs.replace(joined, payload=bare.payload, compact=compact)
