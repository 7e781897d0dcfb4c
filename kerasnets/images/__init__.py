"""Decoding of image files in core TensorFlow operations, for training and for exported graphs."""
