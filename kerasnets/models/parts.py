"""What several models need: layers among their arguments, and where a sequence is no padding."""

import keras


def present(sequence, valid=None):
    """-> bool [B, T], True = there: `valid` if it is given, else where tokens are no padding, 0; None: all is there."""
    if valid is None and len(sequence.shape) == 2 and "int" in keras.backend.standardize_dtype(sequence.dtype):
        return sequence != 0
    return valid


def with_layer(config, name):
    """-> the config with its layer `name` made from its own config."""
    return config | {name: keras.saving.deserialize_keras_object(config[name])}


def build_given(layer, shape):
    """Builds a layer that was given; one that comes from a file is built already."""
    if not layer.built:
        layer.build(shape)
