"""``--set alarms.budget=1/10d``: a specification with some keys set otherwise."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import SpecificationError
from schemas.specification import FILE_NAME, Specification, document_of, of_document

Setting = tuple[str, Any]


def parse_setting(text: str) -> Setting:
    """Key and value of ``section.key=value``; the value is TOML, or else a text.

    Raises
    ------
    SpecificationError

    Examples
    --------
    >>> parse_setting("alarms.budget=1/10d"), parse_setting('metrics.windows=["1d"]')
    (('alarms.budget', '1/10d'), ('metrics.windows', ['1d']))
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(part for part in key.split(".")) or "." not in key:
        raise SpecificationError(
            f"{text!r} sets nothing", where="--set", remedy="write section.key=value, such as alarms.budget=1/10d"
        )
    try:
        return key, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value.strip()


def with_settings(text: str, settings: Sequence[Setting], *, file: str = FILE_NAME) -> Specification:
    """The specification in `text`, with keys set otherwise.

    Raises
    ------
    SpecificationError
        A key does not exist, or takes no such value.
    """
    document = copy.deepcopy(document_of(text, file=file))
    for key, value in settings:
        *path, name = key.split(".")
        section: Any = document
        for part in path:
            section = section.setdefault(part, {}) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise SpecificationError(f"{key} is no key", where="--set", remedy="see driftline config show DIR")
        section[name] = value
    said = ", ".join(f"{key}={value}" for key, value in settings)
    return of_document(document, file=f"{file} with --set {said}" if said else file)


def said(settings: Sequence[Setting]) -> Mapping[str, Any]:
    """Settings as a document shows them."""
    return dict(settings)
