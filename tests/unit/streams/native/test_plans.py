from __future__ import annotations

import gc
import weakref

import pytest

from streams.native.library import WHY_NOT, available
from tests.support.plans import plan

pytestmark = pytest.mark.skipif(not available(), reason=WHY_NOT)


def test_partitions_share_a_compiled_plan_and_nobody_else_keeps_it() -> None:
    from streams.native.plans import compiled

    one, other = plan(), plan()
    held = compiled(one)
    assert compiled(one) is held
    assert compiled(other) is not held
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None
    assert compiled(one).pointer
    forgotten = weakref.ref(one)
    del one
    gc.collect()
    assert forgotten() is None
