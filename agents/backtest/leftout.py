"""What of a table could not be used, and why: nothing is left out without a count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN = 3


class LeftOut:
    """Counts by area and reason, with the first rows of the file that each concerns.

    Notes
    -----
    Areas: ``rows`` are not in the replay at all, ``labels`` never arrive, ``values`` count as missing, ``training``
    rows or labels are replayed but not learnt from.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, tuple[int, list[int]]]] = {}

    def add(self, area: str, reason: str, rows: NDArray[np.int64]) -> None:
        """Count rows of the file, numbered from 0; none are no entry."""
        if not len(rows):
            return
        count, shown = self._found.setdefault(area, {}).get(reason, (0, []))
        more = [int(row) for row in rows[: SHOWN - len(shown)]] if len(shown) < SHOWN else []
        self._found[area][reason] = (count + len(rows), shown + more)

    def count(self, area: str) -> int:
        """How many in one area."""
        return sum(count for count, _ in self._found.get(area, {}).values())

    def document(self) -> dict[str, Any]:
        """``{area: {reason: {"count", "rows"}}}``; `rows` are the first few, numbered from 1 without the header."""
        return {
            area: {
                reason: {"count": count, "rows": [row + 1 for row in shown]}
                for reason, (count, shown) in reasons.items()
            }
            for area, reasons in self._found.items()
        }
