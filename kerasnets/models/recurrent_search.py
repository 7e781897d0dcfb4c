"""What a search asks of a model whose cache is the states of RNNs.

B batch, K hypotheses of a row, U units, J hypotheses that the search goes on from.
"""

from keras import ops, tree

from kerasnets.layers.cache import take_hypotheses


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
