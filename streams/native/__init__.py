"""The native core of the join: the ordinary records, treated in Rust (`native/`), with the rules of `streams.join`.

`library` loads it, `plans` describes a plan to it, `partition.NativeJoinPartition` is the entrance. Where it was not
built, `streams.join.partition.JoinPartition` does the same, slower.
"""
