"""The search interface of models whose cache has a fixed size: the states of RNNs, or a window of keys and values.

B batch, K hypotheses of a row, U numbers of a state, J hypotheses that the search continues.
"""

from keras import ops, tree

from kerasnets.layers.cache import take_hypotheses


class RecurrentSearch:
    """The search interface besides `start` and `step`, for models whose cache is a list of states of fixed sizes.

    States are [B, U], or [B, K, U] for K hypotheses of each row.
    """

    def extend(self, cache, positions, writer=None):
        """Return the cache unchanged: the size of a state does not depend on the number of positions."""
        return cache

    def reorder(self, cache, parents):
        """-> the states [B, J, U] of the hypotheses `parents` int [B, J] of each row."""

        def take(state):
            return take_hypotheses(state if len(state.shape) == 3 else ops.expand_dims(state, 1), parents)

        return tree.map_structure(take, cache)


def as_rows(states):
    """States [B, U] or [B, K, U] -> [B K, U], the shape for one step."""
    return tree.map_structure(lambda state: ops.reshape(state, (-1, state.shape[-1])), states)


def as_hypotheses(states, tokens):
    """States [B K, U] -> [*, U], where * is the shape of their tokens, int [B] or [B, K]."""
    return tree.map_structure(lambda state: ops.reshape(state, (*ops.shape(tokens), state.shape[-1])), states)
