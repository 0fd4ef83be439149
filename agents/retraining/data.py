"""The training table of a run: the table given at registration plus what the archive has joined since."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agents.archiving.dataset import joined
from agents.artifacts import ArtifactStore
from agents.retraining.table import normalise
from agents.retraining.trainer import event_times_ms, table_hash
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import Losses, layout_of, opened_table, sealed_bytes
from schemas.codec import iso, utc
from schemas.errors import StateError
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

KIND = "dataset"


def store_table(
    artifacts: ArtifactStore,
    table: pd.DataFrame,
    spec: Specification | None = None,
    keys: SubjectKeys | None = None,
) -> str:
    """Keep a normalised table as Parquet; returns its SHA-256. With `keys` as `kept_bytes` has it."""
    data = packed(table) if spec is None or keys is None else kept_bytes(table, spec, keys)
    return artifacts.put(data, KIND)


def kept_bytes(table: pd.DataFrame, spec: Specification, keys: SubjectKeys) -> bytes:
    """A table as it is kept: Parquet, and sealed where the specification names a subject."""
    return packed(table) if spec.data.subject is None else sealed_bytes(table, spec, keys)


def recalled(data: bytes, keys: SubjectKeys | None, losses: Losses | None = None) -> pd.DataFrame:
    """The table of bytes that were kept, without the rows of whoever was erased since.

    Raises
    ------
    StateError
        A row was altered, or there are no keys to read it with.
    """
    layout = layout_of(data)
    if layout is not None and keys is None:
        raise StateError("the table is sealed under the keys of its subjects", where=layout.model)
    # Through the layout of a file again: a rebuild, whose rows come so, does the same sums.
    if layout is None or keys is None:
        return unpacked(data)
    return unpacked(packed(opened_table(data, layout, keys, losses)))


def packed(table: pd.DataFrame) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def unpacked(data: bytes) -> pd.DataFrame:
    """The table of a Parquet file's bytes."""
    import pandas as pd

    return pd.read_parquet(io.BytesIO(data))


def load_registered(
    artifacts: ArtifactStore, sha: str, keys: SubjectKeys | None = None, losses: Losses | None = None
) -> pd.DataFrame:
    """The table that was given at registration, as it was stored, without the rows of whoever was erased since.

    Parameters
    ----------
    losses : Losses, optional
        Is told how many rows that are.

    Raises
    ------
    ArtifactError
        It is missing or altered.
    """
    return recalled(artifacts.get(sha), keys, losses)


def widened(spec: Specification, champion: Specification | None, columns: list[str] | None) -> Specification:
    """The specification with the champion's features beside its own, so that both can be judged on the same rows.

    Parameters
    ----------
    columns : list of str, optional
        Columns that the registered table has; features of the champion that it lacks stay out.
    """
    if champion is None:
        return spec
    taken = {spec.data.id, spec.data.event_time, spec.data.label, spec.data.label_time}
    more = {
        name: kind
        for name, kind in champion.features.items()
        if name not in spec.features and name not in taken and (columns is None or name in columns)
    }
    return msgspec.structs.replace(spec, features={**spec.features, **more}) if more else spec


def training_table(
    session: Session,
    archive: str,
    spec: Specification,
    registered: pd.DataFrame | None,
    *,
    as_of_ms: int,
    until: Mapping[str, Mapping[str, int]] | None = None,
    keys: SubjectKeys | None = None,
    losses: Losses | None = None,
) -> pd.DataFrame:
    """Rows of the training window (``auto``: all there are), with the labels that were known at `as_of_ms`.

    Parameters
    ----------
    session : Session
        Its snapshot of the archive's manifest decides what is read.
    archive : str
        `Settings.archive`.
    registered : DataFrame, optional
        Normalised. Where an id is in both, the archive's row counts, unless only the registered one has a label.
    as_of_ms : int
        Event time; nothing later is used.
    until : mapping of str to mapping of str to int, optional
        What the archive had reached at an earlier moment (`agents.archiving.dataset.reached`): only that is read.
    keys : SubjectKeys, optional
        Where the specification names a subject: opens its rows.
    losses : Losses, optional
        Is told how many rows of the archive were left out, because their subjects were erased.

    Raises
    ------
    TrainingError
        The rows do not fit the specification.
    StateError
        A file of the archive is gone.
    """
    import pandas as pd

    from_ms = _from_ms(spec, as_of_ms)
    found = joined(session, archive, spec, event_time_from_ms=from_ms, as_of_ms=as_of_ms, until=until, keys=keys)
    rows = left_over(found.to_pandas(), losses)
    rows = rows.drop(columns=[name for name in rows.columns if name.startswith("_") and name not in spec.features])
    if registered is None:
        return normalise(rows, spec, where="archive")
    old = _known_at(registered, spec, from_ms, as_of_ms)
    if rows.empty:
        return normalise(old, spec, where="registered table")
    merged = pd.concat([rows.astype({spec.data.label: object}), old.astype({spec.data.label: object})])
    if merged[spec.data.id].duplicated().any():
        unlabelled = merged[spec.data.label].isna().to_numpy(dtype=bool)
        # Stable: of equal rank the archive's row, which stands first, is kept.
        merged = merged.iloc[np.argsort(unlabelled, kind="stable")].drop_duplicates(spec.data.id)
    return normalise(merged, spec, where="training table")


def left_over(rows: pd.DataFrame, losses: Losses | None = None) -> pd.DataFrame:
    """Joined rows without those of whoever was erased."""
    if "_erased" not in rows.columns:
        return rows
    gone = rows["_erased"].to_numpy(dtype=bool)
    if losses is not None:
        losses.erased += int(gone.sum())
    return rows[~gone].reset_index(drop=True)


def _from_ms(spec: Specification, as_of_ms: int) -> int:
    """Event time from which rows are read: everything where the run chooses them itself."""
    window_ms = spec.training_window_ms
    return 0 if window_ms is None else as_of_ms - window_ms


def _known_at(table: pd.DataFrame, spec: Specification, from_ms: int, as_of_ms: int) -> pd.DataFrame:
    """Rows of the window; labels that became known later are blanked."""
    import pandas as pd

    times = event_times_ms(table, spec)
    table = table[(times >= from_ms) & (times <= as_of_ms)].reset_index(drop=True)
    if spec.data.label_time is not None:
        later = table[spec.data.label_time] > pd.Timestamp(as_of_ms, unit="ms", tz="UTC")
        if later.any():
            table = table.copy()
            table.loc[later, spec.data.label] = None
            table.loc[later, spec.data.label_time] = pd.NaT
    return table


def manifest(
    table: pd.DataFrame,
    spec: Specification,
    *,
    registered: str | None,
    as_of_ms: int | None,
    seasons: str | None = None,
    reached: Mapping[str, Mapping[str, int]] | None = None,
    subjects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a version records of its data.

    Parameters
    ----------
    registered : str, optional
        SHA-256 of the table given at registration.
    as_of_ms : int, optional
        Where the archive was read: up to which event time.
    seasons : str, optional
        SHA-256 of the table that the seasons are learnt from, where one was given.
    reached : mapping of str to mapping of str to int, optional
        How far the archive had come: with it the same rows are found again.
    subjects : mapping, optional
        Of `agents.subjects.usage.record`: whose rows they are.
    """
    times = event_times_ms(table, spec)
    archive: dict[str, Any] | None = None
    if as_of_ms is not None:
        archive = {"from": iso(utc(_from_ms(spec, as_of_ms))), "as_of": iso(utc(as_of_ms))}
        if reached is not None:
            archive["offsets"] = {topic: dict(ends) for topic, ends in reached.items()}
    return {
        "registered": registered,
        "archive": archive,
        **({"seasons": seasons} if seasons is not None else {}),
        **(subjects or {}),
        "rows": len(table),
        "labelled": int(table[spec.data.label].notna().sum()),
        "first_event": iso(utc(int(times.min()))),
        "last_event": iso(utc(int(times.max()))),
        "columns": {str(name): str(table[name].dtype) for name in table.columns},
        "sha256": table_hash(table),
    }
