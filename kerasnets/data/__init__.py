"""Data in memory: sources, splits, and the batch of each training step."""
