"""A lock names exactly what training loads, and tells two environments apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agents.artifacts import ArtifactStore
from agents.retraining import lock
from schemas.codec import encode
from schemas.errors import ArtifactError
from tests.unit.agents.retraining.projects import PIPELINE

FILES = {"pipeline.py": PIPELINE.encode(), "driftline.toml": b""}


def test_training_needs_nothing_that_the_lock_lacks() -> None:
    """What a fresh environment will not have is hidden: the process that rebuilds still has all it imports."""
    code = """
import sys
from importlib import metadata
locked, banned = set(sys.argv[1].split()), set()
for module, names in metadata.packages_distributions().items():
    if not {name.lower().replace("_", "-") for name in names} & locked:
        banned.add(module)
banned -= {"agents", "streams", "schemas"}
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import agents.retraining.rebuild_child, agents.retraining.trainer, agents.retraining.lock, agents.skops_file
import agents.retraining.project, agents.retraining.pipeline, agents.retraining.threads, agents.retraining.scoring
import pandas, pyarrow.parquet, skops.io, sklearn.ensemble
assert "pydantic" in banned and "sqlalchemy" in banned
"""
    names = " ".join(one.name for one in lock.lock_of(FILES).packages)
    done = subprocess.run([sys.executable, "-c", code, names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_project_that_imports_more_is_locked_with_more() -> None:
    files = {
        **FILES,
        "pipeline.py": PIPELINE.encode() + b"\nimport river.drift, helper\nfrom . import sibling\n",
        "helper.py": b"from sqlalchemy.orm import Session\nimport os\n",
    }
    assert lock.imported(files) == {"sklearn", "river", "sqlalchemy"}
    names = {one.name for one in lock.lock_of(files).packages}
    assert {"river", "sqlalchemy", "scikit-learn"} <= names
    assert "river" not in {one.name for one in lock.lock_of(FILES).packages}


def test_a_lock_is_kept_once_and_signed(tmp_path: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "artifacts"))
    recorded = lock.record(artifacts, FILES)
    assert lock.record(artifacts, FILES) == recorded
    assert lock.read(artifacts, recorded["lock"]) == lock.lock_of(FILES)
    assert recorded["scikit-learn"]
    with pytest.raises(ArtifactError, match="not signed as environment"):
        lock.read(artifacts, artifacts.put(b"{}", "model"))


def test_what_differs_is_named() -> None:
    mine = lock.lock_of(FILES)
    assert mine.differences(mine) == []
    assert all(one.content for one in mine.packages)
    numpy = next(one for one in mine.packages if one.name == "numpy")
    others = [one for one in mine.packages if one.name != "numpy"]

    def but(*packages: lock.Package, **fields: str) -> lock.Lock:
        return msgspec.structs.replace(mine, packages=[*others, *packages], **fields)

    replace = msgspec.structs.replace
    assert mine.differences(but(replace(numpy, version="1.0"))) == [f"numpy: {numpy.version} → 1.0"]
    assert mine.differences(but(replace(numpy, content="0" * 64))) == [f"numpy {numpy.version}: its files differ"]
    assert mine.differences(but()) == [f"numpy: {numpy.version} → not there"]
    assert mine.differences(but(numpy, machine="riscv64")) == [f"machine: {mine.machine} → riscv64"]
    assert msgspec.json.decode(encode(mine), type=lock.Lock) == mine


def test_hashes_of_a_requirements_file(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    one, two = "a" * 64, "b" * 64
    path.write_text(f"Some_Name[extra]==1.0 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\nother==2\n")
    assert lock.known_hashes(path) == {("some-name", "1.0"): [one, two], ("other", "2"): []}
    assert lock.known_hashes(tmp_path / "absent") == {}
