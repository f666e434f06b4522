"""Datasets: what they look like to a detector, one reader for each, and `load` to get one by name."""

from .base import AnomalyDataset, Batch, Benchmark, Item, Sample
from .catalogue import available, load

__all__ = ["AnomalyDataset", "Batch", "Benchmark", "Item", "Sample", "available", "load"]
