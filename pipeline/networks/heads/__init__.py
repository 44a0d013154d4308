"""Heads: from a pyramid of maps to one task's prediction."""
