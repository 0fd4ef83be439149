"""Hatch's hook for wheels: the native core belongs into them, and makes them wheels of one platform.

Where there is no Rust toolchain and no library that was built before, the wheel is pure and the join runs in Python. A
Linux wheel is tagged ``linux_*``, for installations of the same distribution or newer; to publish it, `auditwheel
repair` finds the ``manylinux`` tag it deserves.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "streams/native/libdriftline_hot.so"


class NativeHook(BuildHookInterface[Any]):
    """Builds the core, then says what kind of wheel it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is built; `version` is ``standard`` or ``editable``.

        Raises
        ------
        subprocess.CalledProcessError
            The core is there to be built and cannot be.
        """
        if version == "editable":
            # It runs from the tree: `scripts/setup.sh` builds the core there, perhaps later.
            return
        root = Path(self.root)
        if (root / "native" / "Cargo.toml").exists():
            subprocess.run(["sh", "scripts/native.sh"], cwd=root, check=True)
        if (root / LIBRARY).exists():
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            # ctypes loads it: one build serves every Python.
            build_data["tag"] = f"py3-none-{platform}"
