"""How many threads a training may use, so that it leaves room for the hot path beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
