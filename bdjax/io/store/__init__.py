"""A study's folder: models, shards of results, checkpoints."""
