"""Which implementation of the join and of the aggregation a worker uses."""

from __future__ import annotations

from typing import Literal

from schemas.errors import ConfigurationError
from streams.aggregate import AggregatePartition
from streams.join.partition import JoinPartition
from streams.native import library

JoinCore = Literal["auto", "native", "reference"]


def join_class(core: JoinCore) -> type[JoinPartition]:
    """The class to join with.

    Parameters
    ----------
    core : {"auto", "native", "reference"}
        "auto": native where it was built.

    Raises
    ------
    ConfigurationError
        "native" was asked for and is not there.
    """
    if core == "reference" or (core == "auto" and not library.available()):
        return JoinPartition
    if not library.available():
        raise ConfigurationError(
            f"the native core of the join is not there: {library.WHY_NOT}",
            where="DRIFTLINE_JOIN_CORE",
            remedy="build it with `scripts/native.sh`, or set it to auto or reference",
        )
    from streams.native.partition import NativeJoinPartition

    return NativeJoinPartition


def aggregate_class(core: JoinCore) -> type[AggregatePartition]:
    """The class to aggregate with; as `join_class`."""
    if join_class(core) is JoinPartition:
        return AggregatePartition
    from streams.native.aggregate import NativeAggregatePartition

    return NativeAggregatePartition
