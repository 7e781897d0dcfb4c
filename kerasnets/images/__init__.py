"""Image files, in core TensorFlow operations: one decoder for training and for exported graphs."""
