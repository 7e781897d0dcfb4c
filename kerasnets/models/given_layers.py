"""Models that are given a layer: how it is built, and how it comes back from a file."""

import keras


def with_layer(config, name):
    """-> the config with its layer `name` made from its own config."""
    return config | {name: keras.saving.deserialize_keras_object(config[name])}


def build_given(layer, shape):
    """Builds a layer that was given; one that comes from a file is built already."""
    if not layer.built:
        layer.build(shape)
