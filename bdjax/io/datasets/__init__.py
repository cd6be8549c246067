"""Data sets, from wherever they come."""

from bdjax.io.datasets.registry import DATASETS, Dataset, dataset, load, shown

__all__ = ["DATASETS", "Dataset", "dataset", "load", "shown"]
