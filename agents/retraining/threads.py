"""How many threads a training may use, so that it leaves room for the hot path beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def thread_limit() -> int:
    """Half of the cores. OpenMP's barriers spin: a thread too many costs more than it brings."""
    return max((os.cpu_count() or 1) // 2, 1)


@contextmanager
def limited_threads() -> Iterator[None]:
    """Limit OpenMP and BLAS while the block runs; fewer, where the environment says so, stay fewer."""
    import sklearn.utils._openmp_helpers  # noqa: F401  loads the OpenMP library that is to be limited
    from threadpoolctl import threadpool_info, threadpool_limits

    now = [int(pool["num_threads"]) for pool in threadpool_info()]
    with threadpool_limits(limits=min([thread_limit(), *now])):
        yield


@contextmanager
def limited(compute: Mapping[str, Any]) -> Iterator[None]:
    """As many threads as `computing` recorded: sums in another order are other sums."""
    import sklearn.utils._openmp_helpers  # noqa: F401
    from threadpoolctl import threadpool_limits

    limits = {api: int(compute[api]) for api in ("openmp", "blas") if api in compute}
    with threadpool_limits(limits=limits or thread_limit()):
        yield


def computing() -> dict[str, Any]:
    """What sums depend on beside packages: threads of OpenMP and BLAS, and the kernels that BLAS chose here."""
    from threadpoolctl import threadpool_info

    found: dict[str, Any] = {}
    for pool in threadpool_info():
        api = str(pool["user_api"])
        found[api] = max(int(pool["num_threads"]), found.get(api, 1))
        if kernels := pool.get("architecture"):
            found["kernels"] = str(kernels)
    return found
