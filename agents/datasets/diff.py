"""What differs between two datasets: schema, rows, columns, and the files behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from agents.datasets.build import statistics_of
from agents.datasets.manifest import Manifest
from agents.datasets.statistics import moved


def difference(a: Manifest, b: Manifest, rows_a: pa.Table, rows_b: pa.Table) -> dict[str, Any]:
    """The document of ``driftline datasets diff A B --json``.

    Returns
    -------
    dict
        ``equal``; ``schema`` (``added``, ``removed``, ``changed``: old and new type); ``rows`` (``a``, ``b``,
        ``added``, ``removed``, with a key that both share ``changed`` and ``key``); ``columns`` by name: ``nulls``,
        ``distinct``, ``mean`` of each, and how far `b` is from `a` (`agents.datasets.manifest.Moved`); ``files``
        (``added``, ``removed``: paths; ``shared``: how many); ``query``, ``as_of`` and ``parents`` of each
        where they differ.
    """
    types_a = {name: column.type for name, column in a.columns.items()}
    types_b = {name: column.type for name, column in b.columns.items()}
    drift = moved(rows_a, rows_b, statistics_of(a, rows_a))
    columns: dict[str, Any] = {}
    for name in types_a.keys() & types_b.keys():
        one, other = a.columns[name], b.columns[name]
        entry: dict[str, Any] = {"nulls": [one.nulls, other.nulls], "distinct": [one.distinct, other.distinct]}
        if one.mean is not None or other.mean is not None:
            entry["mean"] = [one.mean, other.mean]
        if name in drift:
            entry |= msgspec.to_builtins(drift[name])
        columns[name] = entry
    files_a, files_b = ({file.sha256: file.path for file in found.files} for found in (a, b))
    parents = [sorted({one.dataset for one in found.parents}) for found in (a, b)]
    return {
        "a": f"{a.name}@{a.version}",
        "b": f"{b.name}@{b.version}",
        "equal": a.data == b.data,
        "schema": {
            "added": sorted(types_b.keys() - types_a.keys()),
            "removed": sorted(types_a.keys() - types_b.keys()),
            "changed": {
                name: [types_a[name], types_b[name]]
                for name in sorted(types_a.keys() & types_b.keys())
                if types_a[name] != types_b[name]
            },
        },
        "rows": _rows(rows_a, rows_b, _key(a, b)),
        "columns": {name: columns[name] for name in b.columns if name in columns},
        "files": {
            "added": sorted(files_b[sha] for sha in files_b.keys() - files_a.keys()),
            "removed": sorted(files_a[sha] for sha in files_a.keys() - files_b.keys()),
            "shared": len(files_a.keys() & files_b.keys()),
        },
        **({"query": [a.query, b.query]} if a.query != b.query else {}),
        **({"as_of": [a.as_of, b.as_of]} if a.as_of != b.as_of else {}),
        **({"parents": parents} if parents[0] != parents[1] else {}),
    }


def _key(a: Manifest, b: Manifest) -> list[str]:
    """Columns that tell rows apart in both."""
    return list(a.key) if a.key and a.key == b.key else []


def _rows(a: pa.Table, b: pa.Table, key: Sequence[str]) -> dict[str, Any]:
    """Rows that are in one only; by key where there is one, else whole rows, each as often as it stands there."""
    import duckdb

    shared = [name for name in a.column_names if name in b.column_names]
    found: dict[str, Any] = {"a": a.num_rows, "b": b.num_rows}
    if not shared:
        return found | {"added": b.num_rows, "removed": a.num_rows}
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.register("a", a)
        connection.register("b", b)

        def count(sql: str) -> int:
            return int(connection.execute(f"SELECT count(*) FROM ({sql})").fetchall()[0][0])

        listed = ", ".join(map(_quoted, shared))
        if not key:
            one, other = f"SELECT {listed} FROM a", f"SELECT {listed} FROM b"
            return found | {
                "added": count(f"{other} EXCEPT ALL {one}"),
                "removed": count(f"{one} EXCEPT ALL {other}"),
            }
        same = " AND ".join(f"a.{_quoted(name)} IS NOT DISTINCT FROM b.{_quoted(name)}" for name in key)
        values = [name for name in shared if name not in key]
        differ = " OR ".join(f"a.{_quoted(name)} IS DISTINCT FROM b.{_quoted(name)}" for name in values) or "false"
        return found | {
            "added": count(f"SELECT 1 FROM b WHERE NOT EXISTS (SELECT 1 FROM a WHERE {same})"),
            "removed": count(f"SELECT 1 FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE {same})"),
            "changed": count(f"SELECT 1 FROM b WHERE EXISTS (SELECT 1 FROM a WHERE {same} AND ({differ}))"),
            "key": list(key),
        }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
