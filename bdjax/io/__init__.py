"""Reading and writing files: the only place that knows of data sets, caches and checkpoints on disk."""
