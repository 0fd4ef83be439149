"""Distances between a window's counts and the reference's, and sequential detectors."""
