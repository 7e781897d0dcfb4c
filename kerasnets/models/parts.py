"""What several models need: layers among their arguments, which steps of a sequence are valid, hypotheses of a search.

B batch, K hypotheses of a row, U units.
"""

import keras
from keras import ops, tree

from kerasnets.layers.cache import take_hypotheses


def valid_steps(sequence, valid=None):
    """-> bool [B, T]: `valid` if it is given, else where tokens are no padding, 0; None: all steps are valid."""
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


class RecurrentSearch:
    """What a search asks of a model beside `start` and `step`, where the cache is the states of RNNs.

    States are [B, U], or [B, K, U] for K hypotheses of each row.
    """

    def extend(self, cache, positions, writer=None):
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
