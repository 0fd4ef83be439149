"""One specification for many models: `name = "bus-{route}"`, `per = "route"`.

Each value of the column is a model of its own, with a specification of its own: the same text with the name filled in
and the value noted under `[model] member`. Whoever reads a registered version needs nothing of the fleet.
"""

from __future__ import annotations

import re
from typing import Any

from schemas.errors import SpecificationError
from schemas.inheritance import rendered
from schemas.specification import FILE_NAME, Specification, document_of, of_document


def member(text: str, value: object, *, file: str = FILE_NAME) -> tuple[str, Specification]:
    """Specification, as text and checked, of the model that stands for `value`.

    Raises
    ------
    SpecificationError
        The specification is none of a fleet, or `value` gives no model name.
    """
    document = document_of(text, file=file)
    fleet = of_document(document, file=file)
    per = fleet.model.per
    if per is None:
        raise SpecificationError(
            "stands for one model",
            where=f"{file} [model]",
            remedy='for many write name = "bus-{route}" and per = "route"',
        )
    said = member_value(value)
    model: dict[str, Any] = {key: entry for key, entry in document["model"].items() if key != "per"}
    model["name"] = fleet.model.name.replace(f"{{{per}}}", said)
    model["member"] = {per: said}
    made = {**document, "model": model}
    return rendered(made), of_document(made, file=f"{file} ({per} = {said})")


def member_value(value: object) -> str:
    """A value of the column as text: whole numbers without a point.

    Examples
    --------
    >>> member_value(12.0), member_value(12), member_value(" 7A ")
    ('12', '12', '7A')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def is_member_name(fleet: Specification, name: str) -> bool:
    """Whether a model called `name` could be of the fleet."""
    before, _, after = fleet.model.name.partition(f"{{{fleet.model.per}}}")
    return re.fullmatch(re.escape(before) + ".+" + re.escape(after), name) is not None
