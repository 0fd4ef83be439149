"""What SQL may do to the archive: read what the manifest names, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.errors import ConfigurationError


def locked(connection: Any, paths: Sequence[Path]) -> Any:
    """Let a connection read `paths` and nothing else on this machine or beyond, for good.

    Notes
    -----
    Single files, not their folder: a file beside them may be half written, or already retired.
    """
    if paths:
        connection.execute("SET allowed_paths = $1", [[str(path) for path in paths]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def only_reads(connection: Any, sql: str) -> str:
    """The statement, where it is one and only reads.

    Notes
    -----
    Whoever may read files could write over them with COPY: what a statement is decides, before it runs.

    Raises
    ------
    ConfigurationError
        It is none, or several, or does anything but give rows.
    duckdb.Error
        It cannot be parsed.
    """
    import duckdb

    statements = connection.extract_statements(sql)
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        said = ", ".join(kind.name for kind in kinds) or "nothing"
        raise ConfigurationError(
            f"one statement that only reads is accepted; this is {said}",
            where="SQL",
            remedy="write one SELECT (WITH, FROM, VALUES, DESCRIBE and SUMMARIZE are such)",
        )
    return sql
