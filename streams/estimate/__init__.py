"""Quality before the labels come: estimated from scores, with an interval, reconciled with the truth."""
