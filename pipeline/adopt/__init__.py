"""Checkpoints of the released codes as trained networks of ours: their names mapped, every tensor accounted for."""
