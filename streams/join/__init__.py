"""The join of predictions with what turned out to be true: pure, one instance a partition.

`partition.JoinPartition` is the entrance; `rules` says what a record does to the entry of its prediction_id.
"""
