"""The options of a run, typed and checked; this package does not import TensorFlow."""
