"""What every implementation of the join has to do; `tests/support/joins.py` lists them."""
