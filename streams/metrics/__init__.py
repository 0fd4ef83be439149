"""Quality metrics, computed from the integer counters of panes or from arrays."""
