"""Measured speed: a training step by driver and number of cells, beside the same step in PyTorch."""

from bdjax.bench.measure import measure

__all__ = ["measure"]
