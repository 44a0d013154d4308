"""What every room may use: errors, messages, paths, workers, signals, state on disk. It can change no result."""
