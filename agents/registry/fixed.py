"""What of a version never changes, and the hash over it that the event of its registration carries."""

from __future__ import annotations

import hashlib

import msgspec

from agents.registry.tables import VersionRow
from schemas.codec import iso

FIXED = (
    *("model", "version", "artifact", "reference", "specification", "code", "dataset", "environment", "parameters"),
    *("seed", "parent", "run_id", "report", "actor", "at", "registered_at", "registered_epoch", "external"),
    "allowed_types",
)
"""Columns of a version that never change."""


def record_hash(row: VersionRow) -> str:
    """SHA-256 over all of a version that never changes: a JSON object, keys sorted, NaN and infinities as null."""
    found = {name: getattr(row, name) for name in FIXED}
    found |= {"at": iso(row.at), "registered_at": iso(row.registered_at)}
    # Twice: as it was given and as the database returns it have to be the same text.
    plain = msgspec.json.decode(msgspec.json.encode(found, order="sorted"))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()
