"""One training: its loop, its steps, its checkpoints, and what it leaves."""
