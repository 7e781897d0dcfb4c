"""Data in memory and the batches made of it: sources, splits, and the batch of each training step."""
