"""Search over a model's `start` and `step`; independent of any model."""

from kerasnets.decoding.buckets import search_by_length
from kerasnets.decoding.sampling import Options, draw, sample, uniform
from kerasnets.decoding.search import beam_search, greedy

__all__ = ["Options", "beam_search", "draw", "greedy", "sample", "search_by_length", "uniform"]
