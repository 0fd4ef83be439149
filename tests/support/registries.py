"""A registry with a clock of its own, and short ways to put models and versions into it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.registry.service import Registry
from schemas.codec import decode
from schemas.events import AnyRegistryEvent, ModelState, SubmitCandidate

START = datetime(2026, 1, 1, tzinfo=UTC)
EVENT_TIME = datetime(2013, 2, 1, tzinfo=UTC)


def spec_text(
    name: str = "m",
    *,
    mode: str = "auto",
    approvers: int = 1,
    task: str = "binary",
    probation: str = "0",
    four_eyes: bool = False,
    expires: str = "",
    allowed: tuple[str, ...] = (),
) -> str:
    """A small valid specification."""
    primary = "roc_auc" if task == "binary" else "rmse"
    return f"""
[model]
name = "{name}"
task = "{task}"
allowed_types = {list(allowed)}
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "1d"
[features]
x = "numeric"
[metrics]
primary = "{primary}"
[retraining]
probation = "{probation}"
[approval]
mode = "{mode}"
approvers = {approvers}
four_eyes = {str(four_eyes).lower()}
{f'expires = "{expires}"' if expires else ""}
"""


class RegistryWorld:
    """A registry on one database, with a clock that moves a second with every look."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.engine = make_engine(url)
        self.sessions = session_factory(self.engine)
        self.readers = session_factory(self.engine, read_only=True)
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.now = START
        self.registry = Registry(self.sessions, self.store, clock=self._tick)

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def model(self, name: str = "m", **spec: object) -> str:
        with self.sessions.begin() as session:
            return self.registry.register_model(session, spec_text(name, **spec), "ann")  # type: ignore[arg-type]

    def version(self, session: Session, name: str = "m", **spec: object) -> int:
        return self.registry.register_version(
            session,
            name,
            artifact=self.store.put(f"model {name} {self.now}".encode(), "model"),
            reference=self.store.put(b"{}", "reference"),
            specification_text=spec_text(name, **spec),  # type: ignore[arg-type]
            code={"tree": "abc"},
            dataset={"rows": 3},
            environment={"python": "3.11"},
            parameters={},
            seed=7,
            parent=None,
            run_id="run",
            report={"auc": 0.7, "gap": float("nan")},
            actor="retraining",
            at=EVENT_TIME,
        )

    def submit(self, session: Session, version: int, name: str = "m", *, passed: bool = True) -> str:
        command = SubmitCandidate(
            command_id=f"{name}-{version}",
            model=name,
            actor="retraining",
            version=version,
            run_id="run",
            passed=passed,
            reason="better" if passed else "worse",
            at=EVENT_TIME,
        )
        return self.registry.submit(session, command)

    def candidate(self, name: str = "m", *, passed: bool = True, **spec: object) -> tuple[int, str]:
        """Register and submit a version; its number and decision."""
        with self.sessions.begin() as session:
            version = self.version(session, name, **spec)
            return version, self.submit(session, version, name, passed=passed)

    def champion(self, name: str = "m") -> int | None:
        """Number of a model's champion."""
        with self.readers() as session:
            return self.registry.model(session, name).champion

    def events(self) -> list[AnyRegistryEvent]:
        """Events in the outbox, in order."""
        with self.readers() as session:
            rows = session.scalars(select(OutboxRow).where(OutboxRow.topic == "registry-events").order_by(OutboxRow.id))
            return [decode(row.payload, AnyRegistryEvent) for row in rows]  # type: ignore[arg-type]

    def states(self) -> list[ModelState]:
        """States in the outbox, in order."""
        with self.readers() as session:
            rows = session.scalars(select(OutboxRow).where(OutboxRow.topic == "registry-state").order_by(OutboxRow.id))
            return [decode(row.payload, ModelState) for row in rows]

    def close(self) -> None:
        self.engine.dispose()
