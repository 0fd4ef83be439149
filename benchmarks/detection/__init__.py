"""Alarms on streams whose truth is known: false alarms, delay, misses, next to other detectors."""
