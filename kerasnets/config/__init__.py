"""Options: what a run is configured by, typed and checked; importing them imports no TensorFlow."""
