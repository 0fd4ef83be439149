"""Unit tests of the retraining agent."""
