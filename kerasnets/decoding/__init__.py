"""Search over a model's `start` and `step`; knows no model."""

from kerasnets.decoding.sampling import Options, draw, sample, uniform
from kerasnets.decoding.search import beam_search, greedy, search

__all__ = ["Options", "beam_search", "draw", "greedy", "sample", "search", "uniform"]
