"""What a dataset is made of: a record that never changes, named by the hash of its bytes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from schemas.errors import ConfigurationError

KIND = "dataset"
MANIFEST_KIND = "dataset-manifest"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_REFERENCE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})(?:@(?P<version>[1-9][0-9]{0,8}))?$")


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the archive that the query could read. Offsets are inclusive."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    rows: int
    path: str
    sha256: str


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset (``NAME@3``) that the query could read as `view`: the SHA-256 of its rows, and how many were left."""

    dataset: str
    view: str
    data: str
    rows: int


class Column(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A column and what its values are like.

    `edges` and `counts` of numbers: ten bins of equal content and how many values each holds; `values` of others: the
    most frequent ones (fifty) and how often each came.
    """

    type: str
    nulls: int
    distinct: int
    least: str | None = None
    most: str | None = None
    mean: float | None = None
    deviation: float | None = None
    edges: list[float] = []
    counts: list[int] = []
    values: dict[str, int] = {}


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """How far a column is from the same column of another dataset, by the measures of drift (`streams.drift`).

    `psi` and `jensen_shannon` over ten bins or the values; of numbers `ks` (the largest distance of the distribution
    functions) and `wasserstein` (in standard deviations of the old ones), both of the values themselves; of others
    `chi2` (the statistic times 1/n + 1/m). `p_value`: that chance alone moves so far, by KS or chi-squared; `moved`:
    PSI of 0.1 or more, and p below 0.01. None: there is no such number, as where a column lost all its values.
    Manifests of earlier releases know neither `jensen_shannon`, `wasserstein` nor `chi2`.
    """

    psi: float | None
    p_value: float
    moved: bool
    ks: float | None = None
    jensen_shannon: float | None = None
    wasserstein: float | None = None
    chi2: float | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset.

    Parameters
    ----------
    query : str, optional
        The SQL it was made by; None: it came as a file.
    as_of : str, optional
        Event time up to which records were seen.
    model : str, optional
        Whose joined rows were at hand as ``joined``.
    data : str
        SHA-256 of the rows, as Parquet.
    rows : int
    key : list of str
        Columns that tell rows apart.
    columns : dict of str to Column
    files : list of SourceFile
    checks : list of str
        Conditions that hold.
    problems : list of str
        What looks odd, in words.
    previous : int, optional
        The version before it, and `drift` from that.
    sealed : list of str, optional
        Of people's rows: columns that are encrypted under the keys of those people.
    parents : list of Parent
        Datasets that it was made from.
    """

    name: str
    version: int
    query: str | None
    as_of: str | None
    model: str | None
    data: str
    rows: int
    key: list[str]
    columns: dict[str, Column]
    files: list[SourceFile]
    checks: list[str]
    problems: list[str]
    previous: int | None = None
    drift: dict[str, Moved] = {}
    made_with: dict[str, Any] = {}
    sealed: list[str] | msgspec.UnsetType = msgspec.UNSET
    parents: list[Parent] = []


def check_name(name: str) -> str:
    """The name, where it can be one. Raises `ConfigurationError`."""
    if not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} cannot name a dataset",
            where="driftline datasets",
            remedy="use letters, digits, '.', '_' and '-', at most 128",
        )
    return name


def parse_reference(text: str) -> tuple[str, int | None]:
    """Name and version of ``NAME@3``; without a version it is the newest.

    Raises
    ------
    ConfigurationError
    """
    found = _REFERENCE.match(text)
    if found is None:
        raise ConfigurationError(
            f"{text!r} names no dataset", where="driftline datasets", remedy="write NAME or NAME@VERSION"
        )
    version = found["version"]
    return found["name"], None if version is None else int(version)
