"""What several models need: layers among their arguments, where a sequence is no padding, and hypotheses of a search.

B batch, K hypotheses of a row, U units.
"""

import keras
from keras import ops, tree


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


def take_hypotheses(x, parents):
    """x [B, K, ...], parents int [B, J], from 0 to K - 1 -> [B, J, ...]: the chosen hypotheses of each row."""
    rows, count = ops.shape(x)[:2]
    places = parents + ops.expand_dims(ops.arange(rows, dtype="int32"), 1) * count
    return ops.take(ops.reshape(x, (rows * count, *ops.shape(x)[2:])), places, axis=0)


class RecurrentSearch:
    """What a search asks of a model beside `start` and `step`, where the cache is the states of RNNs.

    States are [B, U], or [B, K, U] for K hypotheses of each row.
    """

    def extend(self, cache, positions):
        """A state has room for any number of positions."""
        return cache

    def reorder(self, cache, parents):
        """The search goes on from the hypotheses `parents` int [B, J] of each row -> their states [B, J, U]."""

        def take(state):
            return take_hypotheses(state if len(state.shape) == 3 else ops.expand_dims(state, 1), parents)

        return tree.map_structure(take, cache)


def as_rows(states):
    """States [B, U] or [B, K, U] -> [B K, U], as an RNN takes them."""
    return tree.map_structure(lambda state: ops.reshape(state, (-1, state.shape[-1])), states)


def as_hypotheses(states, tokens):
    """States [B K, U] -> [*, U], as the tokens int [B] or [B, K] that led to them."""
    return tree.map_structure(lambda state: ops.reshape(state, (*ops.shape(tokens), state.shape[-1])), states)
