"""River's drift detectors without the data sets that its package loads along.

`river.drift` imports its data sets, and these scikit-learn and pandas: two thirds of what a monitoring process would
load, for nothing that it uses. The data sets are loaded when somebody asks for one of them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_DATASETS = "river.drift.datasets"


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        # The import system asks about a module that it finds: that is no reason to load this one.
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def river_drift() -> Any:
    """The package `river.drift`."""
    if "river.drift" not in sys.modules:
        sys.modules.setdefault(_DATASETS, _Later(_DATASETS))
    return importlib.import_module("river.drift")
