"""One cell of a study as pure functions, many cells from one, and what fits into memory."""
