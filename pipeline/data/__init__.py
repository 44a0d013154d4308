"""The packed format: a sample with its labels, and the memory-mapped store of them. Nothing else."""
