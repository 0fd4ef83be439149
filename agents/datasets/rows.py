"""The rows of a dataset."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from agents.artifacts import ArtifactStore
from agents.datasets.private import opened
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import Losses


def rows_of(
    artifacts: ArtifactStore, data: str, keys: SubjectKeys | None = None, losses: Losses | None = None
) -> pa.Table:
    """The rows of a dataset by their hash, without those of whoever was erased since.

    Parameters
    ----------
    losses : Losses, optional
        Is told how many those are.

    Raises
    ------
    ArtifactError
    StateError
        People's rows were altered, or there are no keys to read them with.
    """
    return opened(pq.read_table(io.BytesIO(artifacts.get(data))), keys, losses)
