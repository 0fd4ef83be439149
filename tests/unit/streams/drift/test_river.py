"""River's detectors are loaded without its data sets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streams.drift.river import _Later, river_drift


def test_the_detectors_come_without_the_heavy_libraries() -> None:
    program = (
        "import sys; from streams.drift.bank import Bank;"
        "Bank(('page-hinkley', 'ddm', 'hddm'), 0.001); print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "river.drift" in loaded
    assert not {"sklearn", "pandas", "river.datasets"} & set(loaded)


def test_the_package_is_the_one_that_an_import_finds() -> None:
    from river import drift

    assert river_drift() is drift


def test_what_comes_later_comes_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    later = _Later("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", later)
    import colorsys

    assert colorsys is later
    assert colorsys.rgb_to_hsv(0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)
    assert sys.modules["colorsys"] is not later
    with pytest.raises(AttributeError, match="nothing_of_it"):
        _ = later.nothing_of_it
