"""Scores, pooled over a whole split: one file per kind of metric, imported by the task that uses it."""
