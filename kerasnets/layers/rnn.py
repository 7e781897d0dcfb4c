"""A cell run over time.   B batch, T time steps, D width of the input, P width of the output, U units."""

import keras
from keras import ops

from kerasnets.layers.kernels.lstm import run_lstm, stock_lstm
from kerasnets.layers.masking import MaskedLayer, merge_masks
from kerasnets.layers.recurrent import LSTMCell

register = keras.saving.register_keras_serializable("kerasnets")


class RecurrentLayer(MaskedLayer):
    """A layer whose outputs of every step have the mask of x, and whose last states have none."""

    def compute_mask(self, inputs, previous_mask):
        return previous_mask, None


@register
class RNN(RecurrentLayer):
    """Run a cell over time, with the same weights at every step.

        states_t = cell(x_t, states_{t-1})

    `call` takes and returns the states, so that a long text can be read in parts: pass the last states of one part to
    the next (the gradient ends between them). `truncate` also ends it within a call: truncated back-propagation through
    time (Williams & Peng 1990).

    Args:
        cell: a `SimpleRNNCell`, an `LSTMCell` or any other with `project` and `advance` (recurrent.py).
        reverse: whether to read from the last step to the first. Padding at the end does not change the states, so it
            starts at the last valid step.
        truncate: steps of a chunk within which gradients flow back; None: no truncation.
        stateful: whether a call without states starts from the last states of the previous call, for `fit` over
            consecutive batches; needs a fixed batch size. `reset_states` sets them to zero.
    Call: x [B, T, D]; states of `cell` (zeros when None); valid bool [B, T]: at padding, False, the states do not
        change; mask or x_mask: the same from Keras (see masking.py).
    Returns: output of every step [B, T, P] (`return_sequences` of Keras); the last states (`return_state`), of which
        the first is the last output [B, P].
    """

    def __init__(self, cell, reverse=False, truncate=None, stateful=False, **kwargs):
        super().__init__(**kwargs)
        if truncate is not None and truncate < 1:
            raise ValueError(f"truncate is {truncate}; it must be 1 step or more, or None for no truncation.")
        if not (hasattr(cell, "project") and hasattr(cell, "advance")):
            raise ValueError(f"cell is a {type(cell).__name__}; it must have `project` and `advance`, as LSTMCell has.")
        if cell.compute_dtype != self.compute_dtype:
            raise ValueError(f"cell computes in {cell.compute_dtype}; it must be {self.compute_dtype}, as for the RNN.")
        self.cell, self.reverse, self.truncate, self.stateful = cell, reverse, truncate, stateful

    def build(self, x_shape):
        if len(x_shape) != 3:
            raise ValueError(f"x has the shape {tuple(x_shape)}; it must be [batch, time, features].")
        if not self.cell.built:
            self.cell.build((x_shape[0], x_shape[2]))
        if self.stateful:
            if x_shape[0] is None:
                raise ValueError("stateful is True and the batch size is None; it must be a fixed number.")
            self.carried_states = [
                self.add_weight((x_shape[0], size), "zeros", trainable=False, name=f"carried_{n}")
                for n, size in enumerate(self.cell.state_size)
            ]

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        valid = merge_masks(valid, mask, x_mask)
        if valid is not None and len(valid.shape) != 2:
            raise ValueError(f"valid has the shape {tuple(valid.shape)}; it must be [batch, time].")
        if self.stateful and x.shape[0] != self.carried_states[0].shape[0]:
            built = self.carried_states[0].shape[0]
            raise ValueError(f"the batch size is {x.shape[0]}; it must be {built}, for which the layer was built.")
        if states is None:
            states = [ops.cast(c, self.compute_dtype) for c in self.carried_states] if self.stateful else self.start(x)
        x, valid = (a if a is None or not self.reverse else ops.flip(a, axis=1) for a in (x, valid))
        if valid is not None:
            valid = ops.expand_dims(ops.cast(ops.transpose(valid), self.compute_dtype), -1)
        outputs, states = self.run(ops.transpose(x, (1, 0, 2)), tuple(states), valid, training)
        outputs = ops.transpose(outputs, (1, 0, 2))
        if self.stateful:
            for variable, state in zip(self.carried_states, states, strict=True):
                variable.assign(ops.cast(state, variable.dtype))
        return (ops.flip(outputs, axis=1) if self.reverse else outputs), states

    def start(self, x):
        return self.cell.get_initial_state(ops.shape(x)[0])

    def run(self, x, states, valid, training):
        """x [T, B, D], valid [T, B, 1], 1 or 0, or None -> outputs [T, B, P], states."""
        projected = self.cell.project(x)
        mask, kernel = self.cell.dropout_mask(ops.shape(x)[1], training), self.cell.dropped_kernel(training)

        def advance(states, t):
            before = states
            if self.truncate is not None:
                cut = (t % self.truncate == 0) & (t > 0)
                before = tuple(ops.where(cut, ops.stop_gradient(s), s) for s in states)
            after = self.cell.advance([part[t] for part in projected], before, mask, kernel)
            if valid is not None:
                is_valid = valid[t] > 0
                after = tuple(ops.where(is_valid, new, old) for new, old in zip(after, before, strict=True))
            return after, after

        # Scan step numbers, not arrays: see kernels/lstm.py.
        states, sequences = ops.scan(advance, states, ops.arange(ops.shape(x)[0], dtype="int32"))
        return sequences[0], states

    def step(self, x, states):
        """Run one time step: x [B, D], states -> output [B, P], states."""
        return self.cell(x, states)

    def reset_states(self):
        for variable in self.carried_states if self.stateful else ():
            variable.assign(ops.zeros_like(variable))

    def compute_output_shape(self, x_shape):
        states = tuple((x_shape[0], size) for size in self.cell.state_size)
        return (*x_shape[:2], self.cell.output_size), states

    def get_config(self):
        return super().get_config() | {
            "cell": keras.saving.serialize_keras_object(self.cell),
            "reverse": self.reverse,
            "truncate": self.truncate,
            "stateful": self.stateful,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"cell": keras.saving.deserialize_keras_object(config["cell"])}))


@register
class LSTM(RNN):
    """`RNN` over an `LSTMCell` (see there for the equations), with a faster loop.

    The kernel `run_lstm` runs a cell that has only the four equations, with the results of the general loop.

    Args: units U; recurrent_dropout, peepholes, layer_norm, projection, recurrent_weight_dropout: see `LSTMCell`;
        reverse, truncate, stateful: see `RNN`.
    Call: x [B, T, D]; states: h [B, P] and c [B, U]; valid, mask, x_mask bool [B, T]: see `RNN`.
    Returns: h of every step [B, T, P]; the last states (h, c).
    """

    def __init__(
        self,
        units,
        recurrent_dropout=0.0,
        peepholes=False,
        layer_norm=False,
        projection=None,
        reverse=False,
        truncate=None,
        stateful=False,
        recurrent_weight_dropout=0.0,
        **kwargs,
    ):
        options = recurrent_dropout, peepholes, layer_norm, projection, recurrent_weight_dropout
        cell = LSTMCell(units, *options, dtype=kwargs.get("dtype"), name="cell")
        super().__init__(cell, reverse, truncate, stateful, **kwargs)

    def build(self, x_shape):
        super().build(x_shape)
        self.stock = stock_lstm(self.cell) if self.cell.plain else None

    def run(self, x, states, valid, training):
        if self.cell.plain:
            kernel = self.cell.dropped_kernel(training)
            return run_lstm(self.cell, x, states, valid, self.truncate, self.stock, kernel)
        return super().run(x, states, valid, training)

    def gates(self, x, states=None):
        """-> the gates i, f, g, o and the cell c of every step, each [B, T, U] in float32.

        x and states as in `call`; all steps are valid. Raises ValueError if reverse is True.
        """
        if self.reverse:
            raise ValueError("reverse is True; it must be False, to read the gates.")
        states = self.cell.get_initial_state(ops.shape(x)[0]) if states is None else states
        projected = [
            ops.cast(z, "float32") for z in self.cell.project(ops.cast(ops.transpose(x, (1, 0, 2)), "float32"))
        ]
        states = tuple(ops.cast(state, "float32") for state in states)

        def advance(carry, t):
            i, f, g, o, c = self.cell.gates([part[t] for part in projected], carry[:2])
            h = self.cell.read_out(o, c)
            return (h, c, i, f, g, o), (h, c, i, f, g, o)

        empty = ops.zeros_like(states[1])
        _, (_, cs, *gates) = ops.scan(advance, (*states, *[empty] * 4), ops.arange(ops.shape(x)[1], dtype="int32"))
        return tuple(ops.transpose(part, (1, 0, 2)) for part in (*gates, cs))

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        names = ("units", "recurrent_dropout", "peepholes", "layer_norm", "projection", "recurrent_weight_dropout")
        return config | {name: getattr(self.cell, name) for name in names}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
