"""The fleet's budget: what one of many models may raise. Pure.

A model's tests cross at chances that its own budget allows. Over thousands of models these would still be hundreds of
false incidents a day. So an incident needs a crossing that its model's *share of the fleet's budget* allows too: as
much less likely than its own budget asks for as the share is smaller than that budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.specification import Specification


def share(budget_per_ms: float, models: int) -> float:
    """False incidents per millisecond that each of `models` may raise.

    Examples
    --------
    >>> share(1.0, 4)
    0.25
    """
    return budget_per_ms / max(models, 1)


def is_quiet(evidence: Mapping[str, Any], spec: Specification | None, share_per_ms: float | None) -> bool:
    """Whether a crossing is too likely by chance, over the whole fleet, to be a reason to act.

    Parameters
    ----------
    evidence : mapping
        Of the observation: `p`, the chance its test was allowed, and `p_value`, the least at which it would still
        cross.
    spec : Specification, optional
        Of the model; None: unknown, and nothing is quiet.
    share_per_ms : float, optional
        From `share`; None: there is no fleet.

    Notes
    -----
    A test whose crossings carry no `p_value` counts as just what it was allowed: where the share is smaller than the
    model's budget, it joins incidents and opens none. What a person set (explicit thresholds) and what no chance
    explains carries no `p` either way and is never quiet.
    """
    if spec is None or share_per_ms is None or "p" not in evidence:
        return False
    allowed, seen = evidence["p"], evidence.get("p_value", evidence["p"])
    if not isinstance(allowed, int | float) or not isinstance(seen, int | float) or allowed <= 0:
        return False
    return spec.budget_per_ms * seen / allowed > share_per_ms * (1 + 1e-9)
