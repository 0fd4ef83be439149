"""Write the tables of the example: ``python examples/flights/prepare_data.py [FOLDER]``.

``january.parquet`` trains version 1 (``driftline register examples/flights --data january.parquet``), and
``replay.parquet`` holds February to December, to be sent to the topics in order of event time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flights import january_table, replay


def main(folder: Path) -> None:
    """Write both tables to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("january", january_table()), ("replay", replay())):
        path = folder / f"{name}.parquet"
        table.to_parquet(path, index=False)
        print(f"{path}: {len(table):,} flights, {table['late'].notna().sum():,} with a label")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
