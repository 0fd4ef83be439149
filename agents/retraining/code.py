"""Code that changed: the trigger ``code``.

A champion was made from a project with certain packages. Where a run would use others now, a successor is due: after an
upgrade, or when the folder that the operator names as the model's source (`DRIFTLINE_PROJECTS`) holds something else.
`driftline register` needs no trigger: it trains at once.

Notes
-----
The look is taken whenever a pane of the model closes, so that `as_of` is event time. What was asked for once is not
asked for again while the champion is the same: a candidate that the gate refused comes back with the next change.
Nothing of the folder is run here; that is done where training is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agents.registry.service import Registry
from agents.registry.views import VersionInfo
from agents.retraining import jobs
from agents.retraining.environment import environment
from agents.retraining.logic import refusal
from agents.retraining.packing import KIND, pack
from agents.retraining.project import read_project, tree_hash
from schemas.codec import derived_id, to_ms
from schemas.errors import DriftlineError, NotFoundError
from schemas.events import PaneClosed, RetrainRequest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ACTOR = "policy:code"
log = logging.getLogger("driftline.retraining")


def difference(champion: VersionInfo, tree: str | None, packages: Mapping[str, str]) -> str | None:
    """What a run would do otherwise than the champion's did, in words; None where nothing.

    Parameters
    ----------
    tree : str, optional
        Hash of the project as it is now, where that is known.
    packages : mapping of str to str
        Version by package, as installed now.
    """
    parts = []
    was = champion.code.get("tree")
    if tree is not None and was is not None and tree != was:
        parts.append(f"its project's code {str(was)[:8]} is {tree[:8]} now")
    known = champion.environment
    moved = [
        f"{name} {known[name]} is {packages[name]}"
        for name in packages
        if known.get(name, packages[name]) != packages[name]
    ]
    if moved:
        parts.append(f"of its packages {', '.join(moved)} now")
    return " and ".join(parts) or None


class CodeWatch:
    """Asks for a successor where code or packages changed.

    Parameters
    ----------
    registry : Registry
    folders : sequence of Path
        Projects of single models.
    packages : mapping, optional
        Instead of what is installed.
    """

    def __init__(
        self, registry: Registry, folders: Sequence[Path] = (), packages: Mapping[str, str] | None = None
    ) -> None:
        self._registry = registry
        self._folders = folders
        self._packages = dict(environment() if packages is None else packages)
        self._told: set[str] = set()
        self._wanted: dict[str, bool] = {}

    def due(self, session: Session, pane: PaneClosed) -> str | None:
        """Queue a run where one is due; its id, where one was queued."""
        try:
            champion = self._registry.champion(session, pane.model)
        except NotFoundError:
            return None
        if champion is None or not self._wants(session, champion):
            return None
        files = self._files(pane.model)
        tree = None if files is None else tree_hash(files)
        why = difference(champion, tree, self._packages)
        if why is None:
            return None
        changed = tree if tree != champion.code.get("tree") else None
        request_id = derived_id("code", pane.model, champion.version, changed or "", *self._packages.values())
        if jobs.known(session, request_id):
            return None
        request = RetrainRequest(
            request_id=request_id,
            model=pane.model,
            trigger="code",
            reason=f"version {champion.version}: {why}",
            as_of=pane.observed_at,
            requested_by=ACTOR,
        )
        refused = refusal(
            request,
            self._registry.specification(session, pane.model),
            open_run=jobs.open_run(session, pane.model),
            champion=champion.version,
            last_as_of_ms=jobs.last_automatic_ms(session, pane.model),
            as_of_ms=to_ms(pane.observed_at),
        )
        if refused is not None:
            return None  # not now is not never: the next pane asks again
        if changed is not None and files is not None:
            packed = self._registry.artifacts.put(pack(files), KIND)
            request = msgspec.structs.replace(request, project=packed)
        return jobs.accept(session, request)

    def _wants(self, session: Session, champion: VersionInfo) -> bool:
        """Whether its specification has the trigger; specifications are read once, panes close all the time."""
        known = self._wanted.get(champion.specification)
        if known is None:
            spec = self._registry.specification(session, champion.model, champion.version)
            known = self._wanted[champion.specification] = "code" in spec.retraining.triggers
        return known

    def _files(self, model: str) -> dict[str, bytes] | None:
        """The files of the model's folder; None where none is named, or it cannot be read."""
        for folder in self._folders:
            try:
                spec, _, files = read_project(folder)
            except DriftlineError as error:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    log.warning("%s is left out: %s", folder, error)
                continue
            if spec.name == model and not spec.is_fleet:
                return files
        return None
