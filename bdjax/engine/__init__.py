"""Running a study: compiling, batching, writing."""
