"""`driftline rebuild`: make a version again from what was recorded, and say what came out differently.

Code comes by its hash and signature, the table by its hash or by the offsets the archive had reached, packages by the
lock. The result is compared with the version's artifact by hash, and by the predictions of both on every recorded row.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agents.archiving.retention import lost, need_of
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import session_factory
from agents.database.migrate import migrated
from agents.registry.service import Registry
from agents.registry.views import VersionInfo
from agents.retraining import fresh
from agents.retraining.data import kept_bytes, load_registered, packed, training_table, widened
from agents.retraining.lock import Lock, lock_of, read
from agents.retraining.packing import restore_project
from agents.retraining.project import Project
from agents.retraining.trainer import event_times_ms, table_hash
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import Losses
from schemas.codec import iso, to_ms
from schemas.errors import ConfigurationError, TrainingError, TransitionError
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

SHOWN = 10


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild found.

    `reproduced`: the same code and rows gave a model that answers every row with the same bits, in the recorded
    environment. `differences`: in words, what differs; empty where even the file is the same.
    """

    model: str
    version: int
    reproduced: bool
    artifact: dict[str, Any]
    predictions: dict[str, Any]
    code: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    differences: list[str]
    seconds: float
    erased: int = 0
    """Rows that were recorded and belong to people who were erased since: then nothing was made."""


def rebuild(settings: Settings, model: str, version: int, *, here: bool = False, python: Path | None = None) -> Rebuilt:
    """Make a version again and compare.

    Parameters
    ----------
    here : bool
        Train in this environment, which has to be the recorded one; otherwise a fresh one is made.
    python : Path, optional
        Interpreter of the fresh environment.

    Raises
    ------
    NotFoundError
    TransitionError
        The version was not trained here.
    ConfigurationError
        The environment cannot be made, or with `here` is another.
    ArtifactError
        Something that was recorded is missing or altered.
    TrainingError
        The training failed.
    """
    started = time.monotonic()
    engine = migrated(settings.database)
    artifacts = ArtifactStore.of(settings)
    registry = Registry(session_factory(engine), artifacts)
    with tempfile.TemporaryDirectory(prefix="driftline-rebuild-") as name:
        folder = Path(name).resolve()
        with session_factory(engine, read_only=True)() as session:
            info = registry.version(session, model, version)
            _refuse_foreign(info)
            project = restore_project(artifacts, str(info.code["artifact"]), folder / "code")
            losses = Losses()
            gone = lost(session, need_of(model, version, info.dataset, project.spec.revision_horizon_ms))
            try:
                table = recorded_table(settings, registry, session, info, project.spec, losses=losses)
            except TrainingError as error:
                raise (
                    error if gone is None else TrainingError(_gone(gone), where=f"{model} version {version}")
                ) from error
        engine.dispose()
        if losses.erased:
            return _irreproducible(info, table, losses.erased, time.monotonic() - started)
        lock = read(artifacts, info.environment["lock"]) if "lock" in info.environment else None
        original = artifacts.get(info.artifact)
        artifacts.verify(info.artifact, "model")
        (folder / "model.skops").write_bytes(original)
        (folder / "table.parquet").write_bytes(packed(table))
        task = {
            "folder": str(folder),
            "seed": info.seed,
            "holdout_from_ms": info.parameters["holdout_from_ms"],
            "compute": info.parameters.get("compute", {}),
        }
        found = _in_child(_interpreter(lock, project, folder, here=here, python=python), task, folder)
        rebuilt = (folder / "rebuilt.skops").read_bytes()
    told = _told(info, lock, found, table, (original, rebuilt), here=here, seconds=time.monotonic() - started)
    if gone is not None and not told.data["identical"]:
        told = msgspec.structs.replace(told, differences=[f"data: {_gone(gone)}", *told.differences])
    return told


def recorded_table(
    settings: Settings,
    registry: Registry,
    session: Session,
    info: VersionInfo,
    spec: Specification,
    *,
    losses: Losses | None = None,
) -> pd.DataFrame:
    """The rows that a version was trained and judged on, as far as they still exist.

    Parameters
    ----------
    losses : Losses, optional
        Is told how many rows are of people who were erased since.

    Raises
    ------
    ArtifactError, StateError
    TrainingError
        There are none; of an imported version: they stayed where it was trained.
    """
    dataset = info.dataset
    keys = SubjectKeys.of(settings)
    sha, archive, whole = dataset.get("registered"), dataset.get("archive"), dataset.get("table")
    if "imported" in info.parameters and (missing := _not_here(registry.artifacts, sha if archive is None else whole)):
        # The archive's offsets are those of another broker: read here, they would be other rows.
        origin = info.parameters["imported"]
        raise TrainingError(
            f"its rows stayed in the installation it came from ({missing})",
            where=f"{info.model} version {info.version}",
            remedy=f"there: `driftline export {info.model} {origin['version']} FILE --data`, and import that file, "
            f"too; or rebuild version {origin['version']} there",
        )
    if whole is not None and registry.artifacts.exists(whole):
        return load_registered(registry.artifacts, whole, keys, losses)
    registered = load_registered(registry.artifacts, sha, keys, losses) if sha is not None else None
    if archive is None:
        if registered is None:
            raise TrainingError("the version records no data", where=f"{info.model} version {info.version}")
        table = registered
    else:
        parent = registry.specification(session, info.model, info.parent) if info.parent is not None else None
        wide = widened(spec, parent, None if registered is None else list(registered.columns))
        as_of_ms = _ms(archive["as_of"])
        table = training_table(
            *(session, settings.archive, wide, registered),
            as_of_ms=as_of_ms,
            until=archive.get("offsets"),
            keys=keys,
            losses=losses,
        )
    chosen = info.report.get("choice", {}).get("from")
    if chosen is not None:
        from_ms = _ms(chosen)
        table = table[event_times_ms(table, spec) >= from_ms].reset_index(drop=True)
    return table


def _gone(gone: tuple[int, datetime]) -> str:
    return f"not reproducible: {gone[0]} rows of the archive were let go by {iso(gone[1])}, their retention was over"


def _not_here(artifacts: ArtifactStore, sha: str | None) -> str:
    """What of a table is missing, in words; empty where it is here."""
    if sha is None:
        return "they lie in its archive, and the bundle did not take them along"
    return "" if artifacts.exists(sha) else f"table {sha[:16]} is not here"


def whole_table(settings: Settings, registry: Registry, session: Session, info: VersionInfo) -> bytes | None:
    """The rows of a version as one file, where a part of them lies in the archive; None where they are one already.

    Raises
    ------
    ArtifactError, StateError, TrainingError
        As `recorded_table`.
    """
    if info.dataset.get("archive") is None or info.dataset.get("table") is not None:
        return None
    spec = registry.specification(session, info.model, info.version)
    table = recorded_table(settings, registry, session, info, spec)
    return kept_bytes(table, spec, SubjectKeys.of(settings))


def _irreproducible(info: VersionInfo, table: pd.DataFrame, erased: int, seconds: float) -> Rebuilt:
    return Rebuilt(
        model=info.model,
        version=info.version,
        reproduced=False,
        artifact={"recorded": info.artifact, "rebuilt": None, "identical": False},
        predictions={},
        code={"tree": info.code["tree"], "commit": info.code.get("commit")},
        data={"recorded_rows": info.dataset["rows"], "rows": len(table), "identical": False},
        environment={"lock": info.environment.get("lock")},
        differences=[f"not reproducible: {erased} erased rows"],
        seconds=round(seconds, 1),
        erased=erased,
    )


def _ms(text: str) -> int:
    return to_ms(datetime.fromisoformat(text))


def _refuse_foreign(info: VersionInfo) -> None:
    if info.code.get("artifact") is None:
        raise TransitionError(
            "was trained elsewhere: there is no code to make it again with",
            where=f"{info.model} version {info.version}",
            remedy="rebuild it where it was trained",
        )


def _interpreter(
    lock: Lock | None, project: Project, folder: Path, *, here: bool, python: Path | None
) -> tuple[Path, dict[str, str]]:
    """Interpreter and environment variables of the child."""
    if not here and lock is None:
        raise ConfigurationError(
            "the version was registered by a release that recorded no lock",
            where="driftline rebuild",
            remedy="use --here in an environment that has the versions which `driftline show` lists",
        )
    program = fresh.program(folder / "program")
    if not here and lock is not None:
        return fresh.make(lock, folder / "environment", python), program
    if lock is not None and (differences := lock.differences(lock_of(project.files))):
        shown = "; ".join(differences[:SHOWN]) + (f" and {len(differences) - SHOWN} more" * (len(differences) > SHOWN))
        raise ConfigurationError(
            f"this environment is not the recorded one: {shown}",
            where="driftline rebuild --here",
            remedy="leave --here out: a fresh environment is made from the lock",
        )
    return Path(sys.executable), program


def _in_child(start: tuple[Path, dict[str, str]], task: dict[str, Any], folder: Path) -> dict[str, Any]:
    interpreter, environment = start
    threads = {"OMP_NUM_THREADS": task["compute"].get("openmp"), "OPENBLAS_NUM_THREADS": task["compute"].get("blas")}
    environment = environment | {name: str(count) for name, count in threads.items() if count is not None}
    done = subprocess.run(
        [str(interpreter), "-m", "agents.retraining.rebuild_child"],
        input=json.dumps(task).encode(),
        capture_output=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TrainingError(
            f"the training process ended with code {done.returncode}: {said[-1] if said else 'it said nothing'}",
            where="driftline rebuild",
        ) from error
    if (error_of := found.get("error")) is not None:
        raise TrainingError(error_of["what"], where=error_of["where"], remedy=error_of["remedy"])
    return found


def _told(
    info: VersionInfo,
    lock: Lock | None,
    found: dict[str, Any],
    table: pd.DataFrame,
    files: tuple[bytes, bytes],
    *,
    here: bool,
    seconds: float,
) -> Rebuilt:
    differences = []
    rows, recorded_rows = len(table), info.dataset["rows"]
    data_same = table_hash(table) == info.dataset["sha256"]
    if rows != recorded_rows:
        differences.append(f"data: {recorded_rows} rows were recorded, {rows} are left")
    elif not data_same:
        differences.append("data: the rows are as many, and some of their values differ")
    if found["tree"] != info.code["tree"]:
        differences.append(f"code: tree {found['tree']}, recorded {info.code['tree']}")
    environment: list[str] = []
    if lock is not None:
        environment = lock.differences(msgspec.convert(found["environment"], type=Lock))
        differences += [f"environment: {line}" for line in environment[:SHOWN]]
    kernels = (info.parameters.get("compute", {}).get("kernels"), found["compute"].get("kernels"))
    if None not in kernels and kernels[0] != kernels[1]:
        differences.append(f"processor: BLAS uses the kernels {kernels[1]} here, {kernels[0]} then")
    predictions = found["predictions"]
    if not predictions["identical"]:
        differences.append(
            f"predictions: {predictions['different']} of {predictions['rows']} rows, "
            f"by at most {predictions['largest_difference']:.3g}"
        )
    same_file = found["artifact"] == info.artifact
    if not same_file:
        differences += [f"artifact: {line}" for line in file_differences(*files)]
    return Rebuilt(
        model=info.model,
        version=info.version,
        reproduced=bool(
            predictions["identical"] and data_same and found["tree"] == info.code["tree"] and not environment
        ),
        artifact={"recorded": info.artifact, "rebuilt": found["artifact"], "identical": same_file},
        predictions=predictions,
        code={
            "tree": info.code["tree"],
            "commit": info.code.get("commit"),
            "identical": found["tree"] == info.code["tree"],
        },
        data={
            "recorded_rows": recorded_rows,
            "rows": rows,
            "identical": data_same,
            "trained_rows": found["trained_rows"],
        },
        environment={
            "lock": info.environment.get("lock"),
            "fresh": not here,
            "python": found["environment"]["python"],
            "packages": len(found["environment"]["packages"]),
            "identical": lock is not None and not environment,
        },
        differences=differences,
        seconds=round(seconds, 1),
    )


def file_differences(one: bytes, other: bytes, limit: int = SHOWN) -> list[str]:
    """Where two skops files differ: paths into their schema and arrays, a line each."""
    (first, arrays), (second, others) = _opened(one), _opened(other)
    found: list[str] = []

    def walk(path: str, mine: Any, theirs: Any) -> None:
        if len(found) > limit:
            return
        if isinstance(mine, dict) and isinstance(theirs, dict):
            if mine.get("type") == theirs.get("type") == "numpy" and "file" in mine and "file" in theirs:
                if arrays.get(mine["file"]) != others.get(theirs["file"]):
                    found.append(f"{path}: the numbers differ")
                return
            for key in dict.fromkeys([*mine, *theirs]):
                if key not in {"__id__", "content"}:
                    walk(f"{path}.{key}" if path else key, mine.get(key), theirs.get(key))
                elif key == "content":
                    walk(path, mine.get(key), theirs.get(key))
        elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
            for number, pair in enumerate(zip(mine, theirs, strict=True)):
                walk(f"{path}[{number}]", *pair)
        elif mine != theirs:
            found.append(f"{path}: {_short(mine)}, rebuilt {_short(theirs)}")

    walk("", first, second)
    more = [f"and more than {limit} places"] * (len(found) > limit)
    return found[:limit] + more or ["the same objects, shared in another way"]


def _opened(data: bytes) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(files.pop("schema.json")), files


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
