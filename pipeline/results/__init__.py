"""What the files of results hold, a dataclass for each: run.json, metrics files and delta.json."""
