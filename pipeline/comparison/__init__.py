"""Runs against their single-task baselines and beside published rows."""
