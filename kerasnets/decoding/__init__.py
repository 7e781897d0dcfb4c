"""Search over a model's `start` and `step`; knows no model."""

from kerasnets.decoding.sampling import draw, sample, uniform
from kerasnets.decoding.search import greedy, search

__all__ = ["draw", "greedy", "sample", "search", "uniform"]
