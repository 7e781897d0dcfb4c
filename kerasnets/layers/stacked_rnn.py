"""Bidirectional and stacked RNNs.   B batch, T time steps, D width of the input, P width of the output."""

import keras
from keras import ops

from kerasnets.checks import check_fractions
from kerasnets.layers.masking import merge_masks
from kerasnets.layers.rnn import RNN, RecurrentLayer

register = keras.saving.register_keras_serializable("kerasnets")


def describe_rnn(rnn):
    """-> the class and the options of a layer, for an error message."""
    options = [name for name in ("reverse", "stateful") if getattr(rnn, name, False)]
    return " ".join([type(rnn).__name__, *options])


@register
class Bidirectional(RecurrentLayer):
    """One RNN that reads forward and one that reads backward (Schuster & Paliwal 1997).

    Args: rnn: an `RNN` that reads forward; the other has the same options and its own weights.
    Call: x [B, T, D]; states: those of both (zeros when None); valid, mask, x_mask bool [B, T]: see `RNN`.
    Returns: outputs of both, concatenated [B, T, 2P]; their last states.
    """

    def __init__(self, rnn, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(rnn, RNN) or rnn.reverse or rnn.stateful:
            raise ValueError(f"rnn is {describe_rnn(rnn)}; it must be an RNN that reads forward and is not stateful.")
        self.rnn = rnn
        self.backward = type(rnn).from_config(rnn.get_config() | {"reverse": True, "name": f"{rnn.name}_backward"})

    def build(self, x_shape):
        for rnn in (self.rnn, self.backward):
            if not rnn.built:  # a layer loaded from a file is built
                rnn.build(x_shape)

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        states = (None, None) if states is None else states
        options = {"valid": valid, "x_mask": merge_masks(mask, x_mask), "training": training}
        forward, forward_states = self.rnn(x, states=states[0], **options)
        backward, backward_states = self.backward(x, states=states[1], **options)
        return ops.concatenate([forward, backward], axis=-1), (forward_states, backward_states)

    def compute_output_shape(self, x_shape):
        (*shape, width), states = self.rnn.compute_output_shape(x_shape)
        return (*shape, 2 * width), (states, states)

    def get_config(self):
        return super().get_config() | {"rnn": keras.saving.serialize_keras_object(self.rnn)}

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"rnn": keras.saving.deserialize_keras_object(config["rnn"])}))


@register
class StackedRNN(RecurrentLayer):
    """A stack of RNNs: each reads the outputs of the one below (Graves 2013, section 2).

    Args:
        rnns: from bottom to top, each an `RNN` or `Bidirectional`.
        dropout: share of each RNN's output that training sets to zero, including the top one's; never between steps
            (Zaremba et al. 2014).
        variational: whether dropout zeroes the same features at every step of a call, and draws new ones for the next
            call (Gal & Ghahramani 2016, section 4); otherwise it draws new ones at every step.
    Call: x [B, T, D]; states: those of each RNN (zeros when None); valid, mask, x_mask bool [B, T]: see `RNN`.
    Returns: outputs of the top RNN [B, T, P]; the last states of each.
    """

    def __init__(self, rnns, dropout=0.0, variational=False, **kwargs):
        super().__init__(**kwargs)
        if not rnns or not all(isinstance(rnn, RNN | Bidirectional) for rnn in rnns):
            raise ValueError(
                f"rnns is {[describe_rnn(rnn) for rnn in rnns]}; it must be a list of one or more RNN or Bidirectional."
            )
        check_fractions(dropout=dropout)
        self.rnns, self.dropout, self.variational = list(rnns), dropout, variational
        noise_shape = (None, 1, None) if variational else None
        self.drops = [
            keras.layers.Dropout(dropout, noise_shape, dtype=self.dtype_policy, name=f"drop_{n}")
            for n in range(len(rnns))
        ]

    def build(self, x_shape):
        for rnn in self.rnns:
            if not rnn.built:  # a layer loaded from a file is built
                rnn.build(x_shape)
            x_shape, _ = rnn.compute_output_shape(x_shape)

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        states, after = [None] * len(self.rnns) if states is None else states, []
        x_mask = merge_masks(mask, x_mask)
        for rnn, drop, state in zip(self.rnns, self.drops, states, strict=True):
            x, state = rnn(x, states=state, valid=valid, training=training, x_mask=x_mask)
            x = drop(x, training=training)
            after.append(state)
        return x, after

    def step(self, x, states):
        """Run one time step of RNNs that read forward: x [B, D], states -> output [B, P], states."""
        after = []
        for rnn, state in zip(self.rnns, states, strict=True):
            x, state = rnn.step(x, state)
            after.append(state)
        return x, after

    def reset_states(self):
        for rnn in self.rnns:
            if isinstance(rnn, RNN):
                rnn.reset_states()

    def start(self, batch):
        """-> the initial states, for RNNs that read forward."""
        return [rnn.cell.get_initial_state(batch) for rnn in self.rnns]

    def compute_output_shape(self, x_shape):
        after = []
        for rnn in self.rnns:
            x_shape, states = rnn.compute_output_shape(x_shape)
            after.append(states)
        return x_shape, after

    def get_config(self):
        rnns = [keras.saving.serialize_keras_object(rnn) for rnn in self.rnns]
        return super().get_config() | {"rnns": rnns, "dropout": self.dropout, "variational": self.variational}

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"rnns": [keras.saving.deserialize_keras_object(rnn) for rnn in config["rnns"]]}))
