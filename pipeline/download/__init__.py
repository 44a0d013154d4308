"""From the name of an archive to a checked file, or a folder of its files, in data/raw."""
