"""One model's decision and the fleet's: who speaks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.alerting.fleet import FleetBook
from agents.alerting.incident import Effects
from agents.alerting.logic import AlertBook
from agents.alerting.standing import Standing
from schemas.events import Alert


def join_fleet(
    fleet: FleetBook,
    book: AlertBook,
    effects: Effects,
    found: Sequence[Standing],
    book_of: Callable[[str], AlertBook],
) -> list[tuple[str, Alert]]:
    """Alerts to send after a model's book decided, with their event ids.

    Parameters
    ----------
    fleet : FleetBook
    book : AlertBook
        The model's, which has decided.
    effects : Effects
        What it decided.
    found : sequence of Standing
        Its incidents as they stand (`agents.alerting.standing.standings`).
    book_of : callable
        The book of another model; what is changed there is kept by the caller.

    Notes
    -----
    Fleet incidents are told before the incidents that end in them.
    """
    decided = fleet.observed(book.model, found, book.clock_ms)
    alerts = list(decided.alerts)
    for model, incident_id, fleet_id in decided.folded:
        why = _goes_on(fleet, fleet_id)
        alerts += book_of(model).folded(incident_id, fleet_id, why).alerts
    for standing in found:
        # It came back after its fleet incident was over: from now on it speaks for itself.
        kept = fleet.standings.get(standing.incident_id)
        incident = book.incidents.get(standing.incident_id)
        if incident is not None and incident.fleet and (kept is None or not kept.fleet):
            incident.fleet = ""
    return [*alerts, *book.spoken(effects).alerts]


def _goes_on(fleet: FleetBook, fleet_id: str) -> str:
    incident = fleet.incidents[fleet_id]
    models = fleet.affected(fleet_id)
    return f"{models} models have it in common: this goes on in incident {fleet_id} ({incident.theme})."
