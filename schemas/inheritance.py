"""What a specification inherits: `extends = "../defaults.toml"` names a file whose keys count where it says nothing.

Tables are merged key by key; anything else (lists too) is replaced as a whole. A file of defaults may extend another.
What leaves the folder is the resolved text: a registered version does not change with its defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from schemas.errors import SpecificationError

KEY = "extends"
_REMEDY = 'write extends = "../defaults.toml", a path from the file that says it'


def resolved_text(file: Path) -> str:
    """The text of a specification with what it inherits; as written where it inherits nothing.

    Raises
    ------
    SpecificationError
        A file cannot be read or is no TOML, or files extend each other in a circle.
    """
    text, document = _read(file, remedy="`driftline init DIR` writes a first one")
    if KEY not in document:
        return text
    return rendered(_resolved(file, document, (file.resolve(),)))


def rendered(document: Mapping[str, Any]) -> str:
    """A document as TOML."""
    return tomli_w.dumps(dict(document))


def merged(defaults: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with what `over` says instead.

    Examples
    --------
    >>> merged({"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}})
    {'a': {'x': 1, 'y': [3]}, 'b': 1}
    """
    found = dict(defaults)
    for key, value in over.items():
        below = found.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        found[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def _resolved(file: Path, document: dict[str, Any], seen: tuple[Path, ...]) -> dict[str, Any]:
    name = document.pop(KEY)
    where = f"{file} [{KEY}]"
    if not isinstance(name, str):
        raise SpecificationError(f"{name!r} is no path", where=where, remedy=_REMEDY)
    parent = (file.parent / name).resolve()
    if parent in seen:
        raise SpecificationError(
            f"extends itself: {' → '.join(path.name for path in (*seen, parent))}",
            where=where,
            remedy="let one of these files stand alone",
        )
    _, defaults = _read(parent, said_by=where, remedy=_REMEDY)
    if KEY in defaults:
        defaults = _resolved(parent, defaults, (*seen, parent))
    return merged(defaults, document)


def _read(file: Path, *, remedy: str, said_by: str = "") -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationError(
            f"{file} cannot be read: {error}", where=said_by or str(file), remedy=remedy
        ) from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecificationError(
            f"not TOML: {error}", where=str(file), remedy="see https://toml.io for the syntax"
        ) from error
