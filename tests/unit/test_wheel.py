"""Wheels and the native core: of one platform with it, pure without, and a build script that says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from streams.native.library import FILE, WHY_NOT, available

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "streams", "agents")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the image's build stage has: our packages without a native core, and nothing to build one from."""
    tree = tmp_path / "tree"
    for name in OURS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "scripts/wheel.py", "scripts/native.sh"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    return tree


def build(tree: Path) -> Path:
    out = tree / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    [wheel] = out.iterdir()
    return wheel


def installed(wheel: Path, folder: Path) -> str:
    """Install a wheel by itself, and what `available` says there."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    program = "import streams.native.library as it; print(it.__file__, it.available())"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    path, said = found.stdout.split()
    assert Path(path).is_relative_to(folder)
    return said


def test_a_wheel_without_a_core_is_pure(tree: Path, tmp_path: Path) -> None:
    wheel = build(tree)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert installed(wheel, tmp_path / "there") == "False"


@pytest.mark.skipif(not available(), reason=f"no native core: {WHY_NOT}")
def test_a_wheel_with_a_core_is_of_its_platform(tree: Path, tmp_path: Path) -> None:
    shutil.copy(FILE, tree / "streams" / "native")
    wheel = build(tree)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert installed(wheel, tmp_path / "there") == "True"


@pytest.mark.parametrize(
    ("rustc", "said"),
    [("exit 1", "No Rust toolchain"), ("echo 'rustc 1.63.0 (4b91a6ea7 2022-08-08)'", "Rust 1.63 is too old")],
    ids=["none", "too old"],
)
@pytest.mark.parametrize(
    ("mode", "code", "means"),
    [
        ("", 0, "runs without its native core"),
        ("--check", 0, "is not checked"),
        ("--strict", 2, "runs without its native core"),
    ],
)
def test_without_a_toolchain_the_build_says_so(
    tmp_path: Path, rustc: str, said: str, mode: str, code: int, means: str
) -> None:
    for name in ("rustc", "cargo"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{rustc}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["sh", str(ROOT / "scripts" / "native.sh"), *([mode] if mode else [])]
    found = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert found.returncode == code
    assert said in found.stderr
    assert means in found.stderr
    assert "→ install Rust" in found.stderr
