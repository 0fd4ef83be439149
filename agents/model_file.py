"""The estimator in a model's file, of either kind: for serving, and for the child process that tries it first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agents.onnx_check import is_onnx


def load(data: bytes, where: str, allowed: Iterable[str] = ()) -> Any:
    """Build the estimator of bytes whose hash and signature were checked before.

    Parameters
    ----------
    data : bytes
    where : str
        What errors name as the place.
    allowed : iterable of str
        As of `agents.artifacts.load_model`.

    Raises
    ------
    ArtifactError
        With what is not on the allow-list. Nothing of it ran.
    """
    if is_onnx(data):
        from agents.onnx_file import load_onnx

        return load_onnx(data, where, allowed)
    from agents.skops_file import load_skops

    return load_skops(data, where, allowed)
