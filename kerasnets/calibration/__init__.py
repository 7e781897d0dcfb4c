"""Probabilities that mean what they say: a temperature, its error and its diagram."""
