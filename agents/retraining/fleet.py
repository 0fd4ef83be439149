"""`driftline register` for many models at once: all of one project, or all projects of a folder.

Every model is registered by itself, as if it were alone. One that cannot be is told with its error, the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from agents.access.acting import need_on
from agents.access.logic import Principal
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import migrated
from agents.registry.questions import Questions
from agents.retraining.elsewhere import register_watched
from agents.retraining.members import Given, Member, divided
from agents.retraining.register import register_project
from schemas import fleets
from schemas.errors import ConfigurationError, DriftlineError
from schemas.inheritance import resolved_text
from schemas.specification import FILE_NAME, Specification, load
from streams.kafka.config import KafkaConfig

Note = Callable[[str], None]
TABLES = (".parquet", ".pq", ".csv", ".csv.gz")


class Wanted(NamedTuple):
    """What is registered, and how.

    Parameters
    ----------
    actor : str
    match : str
        Only models whose names match this pattern (``*``, ``?``, ``[…]``).
    only_new : bool
        Leave out models that are registered.
    jobs : int
        Processes that train side by side.
    seasons : Path, optional
        As in `register_project`; not for a project for many models.
    by : Principal, optional
        Who acts; models on which that one may not produce are errors.
    """

    actor: str
    match: str = "*"
    only_new: bool = False
    jobs: int = 1
    seasons: Path | None = None
    by: Principal | None = None


class Watching(NamedTuple):
    """As in `register_watched`: what models that live elsewhere are compared with."""

    window: str | None = None
    external: str | None = None


class _Task(NamedTuple):
    """One model to register."""

    model: str
    directory: Path
    data: Path | Given | None
    member: Member | None
    team: str
    """Of the specification: whose the model is from its registration on."""


def register_fleet(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    data: Path | Given | None,
    wanted: Wanted,
    *,
    members: Sequence[str] = (),
    watching: Watching | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Register the models of a project whose specification says ``per``.

    Parameters
    ----------
    settings : Settings
    kafka : KafkaConfig, optional
        As in `register_project`.
    directory : Path
        Model project; to watch only, `driftline.toml` is enough.
    data : Path or Given, optional
        Table (or a dataset) with the column that tells the models apart. Without it the members that are registered
        are trained anew on their own tables and the archive.
    wanted : Wanted
    members : sequence of str
        Values of the column, where no table tells them; with a table: only these.
    watching : Watching, optional
        Given: the models are trained and served elsewhere, and `data` is their past predictions.
    note : callable
        Gets a line for every model.

    Returns
    -------
    dict
        ``models`` (of each what `register_project` or `register_watched` returns, or ``model`` and ``error``),
        ``registered``, ``failed``, ``skipped`` (registered before, or not matching), ``nameless`` (rows without a
        value of the column), ``seconds``.

    Raises
    ------
    ConfigurationError
        The specification is wrong, or nothing tells which models there are.
    TrainingError
        The table cannot be read or lacks the column.
    """
    began = time.monotonic()
    file = directory / FILE_NAME if directory.is_dir() else directory
    text, fleet, nameless = resolved_text(file), load(directory), 0
    known = _registered(settings)
    if data is not None:
        found, nameless = divided(data, fleet, option="--data" if watching is None else "--reference")
        if members:
            found = [member for member in found if member.value in members]
    elif members:
        found = [Member(fleets.member_value(value)) for value in members]
    else:
        found = [Member(value) for value in _members_before(settings, fleet)]
    if not found:
        raise ConfigurationError(
            f"nothing tells which {fleet.model.per} there are",
            where=str(file),
            remedy=f"give a table with the column {fleet.model.per} (--data FILE), or name them with --member",
        )
    tasks: list[_Task] = []
    failed: list[dict[str, Any]] = []
    for member in found:
        try:
            one = fleets.member(text, member.value, file=str(file))[1]
            tasks.append(_Task(one.name, directory, data, member, one.model.team))
        except DriftlineError as error:
            failed.append(_failure(fleet.model.name.replace(f"{{{fleet.model.per}}}", member.value), error))
    document = _Round(settings, kafka, wanted, watching, known, note).run(tasks, failed)
    return document | {"nameless": nameless, "seconds": round(time.monotonic() - began, 1)}


def register_folder(
    settings: Settings,
    kafka: KafkaConfig | None,
    folder: Path,
    data: Path | None,
    wanted: Wanted,
    *,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Register every project below `folder`, those for many models with all of theirs.

    Parameters
    ----------
    folder : Path
        Its subfolders with `driftline.toml` and `pipeline.py` are projects; others are left alone.
    data : Path, optional
        Folder of tables, each named as its project's folder. A project without one is trained on its champion's table
        and the archive.

    Returns
    -------
    dict
        As `register_fleet`.

    Raises
    ------
    ConfigurationError
        There is no project.
    """
    began = time.monotonic()
    projects = sorted(file.parent for file in folder.glob(f"*/{FILE_NAME}")) if folder.is_dir() else []
    if not projects:
        raise ConfigurationError(
            "no project lies here", where=str(folder), remedy=f"name a folder whose subfolders hold a {FILE_NAME}"
        )
    known = _registered(settings)
    tasks: list[_Task] = []
    failed: list[dict[str, Any]] = []
    fleets_found: list[tuple[Path, Path | None]] = []
    for project in projects:
        try:
            spec = load(project)
            table = _table(data, project)
            if spec.is_fleet:
                fleets_found.append((project, table))
            else:
                tasks.append(_Task(spec.name, project, table, None, spec.model.team))
        except DriftlineError as error:
            failed.append(_failure(project.name, error))
    whole = _Round(settings, kafka, wanted, None, known, note).run(tasks, failed)
    nameless = 0
    for project, table in fleets_found:
        try:
            part = register_fleet(settings, kafka, project, table, wanted, note=note)
        except DriftlineError as error:
            part = {"models": [_failure(project.name, error)], "registered": 0, "failed": 1, "skipped": 0}
            note(f"{project.name}: {error}")
        whole = {key: whole[key] + part[key] for key in ("models", "registered", "failed", "skipped")}
        nameless += part.get("nameless", 0)
    return whole | {"nameless": nameless, "seconds": round(time.monotonic() - began, 1)}


def _table(data: Path | None, project: Path) -> Path | None:
    """The table of a project in a folder of tables. Raises `ConfigurationError` where `data` is no folder."""
    if data is None:
        return None
    if not data.is_dir():
        raise ConfigurationError(
            "--all takes a folder of tables", where=str(data), remedy="name each table as its project's folder"
        )
    return next((file for suffix in TABLES if (file := data / f"{project.name}{suffix}").is_file()), None)


class _Round(NamedTuple):
    """One call: what is registered where, and what was registered before it."""

    settings: Settings
    kafka: KafkaConfig | None
    wanted: Wanted
    watching: Watching | None
    known: frozenset[str]
    note: Note

    def run(self, tasks: Sequence[_Task], failed: list[dict[str, Any]]) -> dict[str, Any]:
        """Register what is wanted of `tasks`; `failed` could not even be named."""
        wanted = self.wanted
        chosen = [
            task
            for task in tasks
            if fnmatchcase(task.model, wanted.match) and not (wanted.only_new and task.model in self.known)
        ]
        done = list(failed)
        for entry in failed:
            self.note(f"{entry['model']}: {entry['error']['what']}")
        register = partial(_register, self.settings, self.kafka, wanted, self.watching)
        with _workers(min(wanted.jobs, len(chosen))) as run:
            for entry in run(register, chosen):
                done.append(entry)
                told = entry["error"]["what"] if "error" in entry else entry.get("decision") or entry["reason"]
                self.note(f"{entry['model']}: {told} ({len(done)} of {len(chosen) + len(failed)})")
        wrong = sum("error" in entry for entry in done)
        return {
            "models": done,
            "registered": len(done) - wrong,
            "failed": wrong,
            "skipped": len(tasks) - len(chosen),
        }


@contextmanager
def _workers(count: int) -> Iterator[Callable[..., Iterator[dict[str, Any]]]]:
    """`map` over tasks: here, or in processes of their own (fresh ones: threads of libraries do not survive a fork)."""
    if count <= 1:
        yield map
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _register(
    settings: Settings, kafka: KafkaConfig | None, wanted: Wanted, watching: Watching | None, task: _Task
) -> dict[str, Any]:
    try:
        if wanted.by is not None:
            need_on(settings, wanted.by, "producer", task.model, team=task.team)
        if watching is not None:
            rows = task.member is not None and task.member.rows is not None
            return register_watched(
                settings,
                kafka,
                task.directory,
                task.data if rows and isinstance(task.data, Path) else None,
                window=watching.window,
                external=watching.external,
                actor=wanted.actor,
                member=task.member,
                by=wanted.by,
            )
        return register_project(
            settings,
            kafka,
            task.directory,
            task.data,
            actor=wanted.actor,
            seasons=wanted.seasons,
            member=task.member,
            by=wanted.by,
        )
    except DriftlineError as error:
        return _failure(task.model, error)


def _failure(model: str, error: DriftlineError) -> dict[str, Any]:
    body = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
    return {"model": model, "error": body}


def _registered(settings: Settings) -> frozenset[str]:
    engine = migrated(settings.database)
    try:
        with session_factory(engine, read_only=True)() as session:
            return frozenset(Questions().model_names(session))
    finally:
        engine.dispose()


def _members_before(settings: Settings, fleet: Specification) -> list[str]:
    """Values of the fleet's column that registered models stand for."""
    per, values = fleet.model.per, []
    assert per is not None
    engine = make_engine(settings.database)
    try:
        with session_factory(engine, read_only=True)() as session:
            questions = Questions()
            for name in questions.model_names(session):
                if fleets.is_member_name(fleet, name):
                    member = questions.specification(session, name).model.member
                    values += [member[per]] if per in member else []
    finally:
        engine.dispose()
    return values
