"""`driftline register` of many models: how it is asked for, and what is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from agents.commands.output import document, note, say

if TYPE_CHECKING:
    from agents.access.logic import Principal
    from agents.config import Settings
    from agents.retraining.members import Given
    from streams.kafka.config import KafkaConfig

_WHERE = "driftline register"
_SHOWN = 20


class Many(NamedTuple):
    """The options that speak of many models."""

    every: bool
    members: tuple[str, ...]
    match: str
    only_new: bool
    jobs: int

    def wanted(self, directory: Path) -> bool:
        """Whether many are to be registered.

        Raises
        ------
        SpecificationError
            The specification cannot be read.
        ConfigurationError
            The options are for many, the project is for one.
        """
        from schemas.errors import ConfigurationError
        from schemas.specification import FILE_NAME, load

        if self.every:
            return True
        file = directory / FILE_NAME if directory.is_dir() else directory
        if file.is_file() and load(file).is_fleet:
            return True
        given = {"--member": self.members, "--match": self.match != "*", "--only-new": self.only_new}
        if said := [name for name, value in (given | {"--jobs": self.jobs > 1}).items() if value]:
            raise ConfigurationError(
                f"{', '.join(said)} choose{'s' * (len(said) == 1)} among many models, and this project is one",
                where=_WHERE,
                remedy='add --all for a folder of projects, or write [model] per = "column"',
            )
        return False


def given_table(settings: Settings, data: Path | None, dataset: str, *, folders: bool) -> Path | Given | None:
    """The table of a registration: a file, or a dataset's rows.

    Parameters
    ----------
    folders : bool
        No single training table is wanted: a dataset cannot be it.

    Raises
    ------
    ConfigurationError
        Both are given, or a dataset where none is wanted.
    NotFoundError
        There is no such dataset.
    """
    if not dataset:
        return data
    from agents.artifacts import ArtifactStore
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated
    from agents.datasets.catalog import find
    from agents.datasets.rows import rows_of
    from agents.retraining.members import Given
    from agents.subjects.keys import SubjectKeys
    from schemas.errors import ConfigurationError

    if data is not None or folders:
        raise ConfigurationError(
            "--dataset is one training table" if folders else "--data and --dataset are two training tables",
            where=_WHERE,
            remedy="`driftline datasets write NAME FILE` makes a file of it" if folders else "give one of them",
        )
    engine = migrated(settings.database)
    with session_factory(engine, read_only=True)() as session:
        row = find(session, dataset)
    rows = rows_of(ArtifactStore.of(settings), row.data, SubjectKeys.of(settings))
    return Given(f"{row.name}@{row.version}", rows.to_pandas())


def register_many(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    many: Many,
    *,
    data: Path | Given | None,
    seasons: Path | None,
    monitor_only: bool,
    reference: Path | None,
    window: str,
    version: str,
    actor: str,
    by: Principal,
    as_json: bool,
) -> None:
    """Register them and tell; exit code 1 where one of them could not be.

    Raises
    ------
    ConfigurationError, TrainingError
    """
    from agents.retraining.fleet import Wanted, Watching, register_fleet, register_folder
    from schemas.errors import ConfigurationError

    if seasons is not None:
        raise ConfigurationError(
            "--seasons goes with one model", where=_WHERE, remedy="give --data of a year: seasons are learnt from it"
        )
    if not monitor_only and (reference is not None or window or version):
        raise ConfigurationError(
            "--reference, --reference-window and --version belong to --monitor-only",
            where=_WHERE,
            remedy="add --monitor-only",
        )
    if monitor_only and (many.every or data is not None):
        raise ConfigurationError(
            "--all is for projects that are trained here" if many.every else "--data is a training table",
            where=_WHERE,
            remedy="to watch only, give one folder and past predictions with --reference FILE",
        )
    wanted = Wanted(actor, many.match, many.only_new, many.jobs, by=by)
    if many.every:
        assert data is None or isinstance(data, Path)
        done = register_folder(settings, kafka, directory, data, wanted, note=note)
    else:
        watching = Watching(window or None, version or None) if monitor_only else None
        table = reference if monitor_only else data
        done = register_fleet(
            settings, kafka, directory, table, wanted, members=many.members, watching=watching, note=note
        )
    if as_json:
        document(done)
    else:
        say(f"{done['registered']} registered, {done['failed']} failed, {done['skipped']} left out")
        if done["nameless"]:
            say(f"{done['nameless']} rows of the table belong to no model: the column is empty there")
        wrong = [entry for entry in done["models"] if "error" in entry]
        for entry in wrong[:_SHOWN]:
            error = entry["error"]
            mend = f" → {error['remedy']}" if error["remedy"] else ""
            say(f"{entry['model']}: {error['what']} ({error['where']}){mend}")
        if len(wrong) > _SHOWN:
            say(f"… and {len(wrong) - _SHOWN} more; --json lists all")
    if done["failed"]:
        raise typer.Exit(1)
