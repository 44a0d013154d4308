"""Multi-task dense prediction: datasets, tasks, networks, training, evaluation and comparison."""
