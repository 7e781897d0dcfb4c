"""Helpers of models that take a layer as an argument: to build it and to load it."""

import keras


def with_layer(config, name):
    """-> the config with its layer `name` deserialized."""
    return config | {name: keras.saving.deserialize_keras_object(config[name])}


def build_given(layer, shape):
    """Build a layer unless it is built already, as a layer loaded from a file is."""
    if not layer.built:
        layer.build(shape)
