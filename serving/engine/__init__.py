"""Execution of graphs: executors, batching, tensors, threads."""
