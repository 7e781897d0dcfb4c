"""Helpers for models that take a layer as an argument: build it and load it."""

import keras


def deserialize_layer(config, name):
    """-> the config with its layer `name` deserialized."""
    return config | {name: keras.saving.deserialize_keras_object(config[name])}


def build_if_needed(layer, shape):
    """Build a layer unless it is built already, as after loading from a file."""
    if not layer.built:
        layer.build(shape)
