"""rooms: an indoor world that is generated from a seed, with exact labels for all six tasks."""
