"""The generated reference pages say what the code says."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _generator() -> object:
    spec = spec_from_file_location("reference_pages", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = _generator().pages()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_bytes()
    assert written == PAGES[name], "run .venv/bin/python scripts/reference.py"


def test_pure_rooms_import_nothing_heavy() -> None:
    """`schemas` must stay importable anywhere: standard library and msgspec."""
    code = (
        "import sys, schemas.codec, schemas.events, schemas.specification, schemas.topics, schemas.reference;"
        "bad = {'numpy', 'pandas', 'confluent_kafka', 'sqlalchemy', 'faust', 'sklearn'} & set(sys.modules); print(bad);"
        "sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
