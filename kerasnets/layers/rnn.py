"""Running a cell over time: forward, backward, both ways, one above another.   T time steps, P width of the output."""

import keras
from keras import ops

from kerasnets.layers.checks import check_shares
from kerasnets.layers.lstm_gradient import recurrence
from kerasnets.layers.masking import MaskedLayer, all_valid
from kerasnets.layers.recurrent import LSTMCell

register = keras.saving.register_keras_serializable("kerasnets")


class RecurrentLayer(MaskedLayer):
    """Outputs of every step, which have the mask of x, and the last states, which have none."""

    def compute_mask(self, inputs, previous_mask):
        return previous_mask, None


@register
class RNN(RecurrentLayer):
    """Runs a cell over time, with the same weights at every step.

        states_t = cell(x_t, states_{t-1})

    The states go in and come out, so that a long text can be read in parts: hand the last states of one part to the
    next (the gradient ends between them). Within a call, `truncate` ends it as well: truncated back-propagation through
    time (Williams & Peng 1990) in chunks of that many steps.

    Args:
        cell: a `SimpleRNNCell`, an `LSTMCell` or any other with `project` and `advance` (recurrent.py).
        reverse: reads from the last step to the first. Padding at the end changes no state, so that it starts at the
            last step that is there.
        truncate: steps of a chunk within which gradients flow back; None: all the way.
        stateful: keeps the last states of a call for the next one where none are given, for plain `fit` over batches
            that follow one another; needs a fixed batch size. `reset_states` forgets them.
    Call: x [B, T, D]; states, as `cell` has them (zeros when None); valid bool [B, T], True = there: at a False step
        the states stay as they are; mask or x_mask, the same from Keras (see masking.py).
    Returns: output of every step [B, T, P] (`return_sequences` of Keras); the last states (`return_state`), of which
        the first is the last output [B, P].
    """

    def __init__(self, cell, reverse=False, truncate=None, stateful=False, **kwargs):
        super().__init__(**kwargs)
        if truncate is not None and truncate < 1:
            raise ValueError(f"truncate is {truncate}; it must be 1 step or more, or None for no end.")
        if not (hasattr(cell, "project") and hasattr(cell, "advance")):
            raise ValueError(f"cell is a {type(cell).__name__}; it must have `project` and `advance`, as LSTMCell has.")
        if cell.compute_dtype != self.compute_dtype:
            raise ValueError(f"cell computes in {cell.compute_dtype}; it must be {self.compute_dtype}, as the RNN.")
        self.cell, self.reverse, self.truncate, self.stateful = cell, reverse, truncate, stateful

    def build(self, x_shape):
        if len(x_shape) != 3:
            raise ValueError(f"x has the shape {tuple(x_shape)}; it must be [batch, time, features].")
        if not self.cell.built:
            self.cell.build((x_shape[0], x_shape[2]))
        if self.stateful:
            if x_shape[0] is None:
                raise ValueError("stateful is True and the batch size is None; it must be a fixed number.")
            self.carried = [
                self.add_weight((x_shape[0], size), "zeros", trainable=False, name=f"carried_{n}")
                for n, size in enumerate(self.cell.state_size)
            ]

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        valid = all_valid(valid, mask, x_mask)
        if valid is not None and len(valid.shape) != 2:
            raise ValueError(f"valid has the shape {tuple(valid.shape)}; it must be [batch, time].")
        if self.stateful and x.shape[0] != self.carried[0].shape[0]:
            raise ValueError(f"the batch size is {x.shape[0]}; it must be {self.carried[0].shape[0]}, as it was built.")
        if states is None:
            states = [ops.cast(c, self.compute_dtype) for c in self.carried] if self.stateful else self.start(x)
        x, valid = (a if a is None or not self.reverse else ops.flip(a, axis=1) for a in (x, valid))
        there = None if valid is None else ops.expand_dims(ops.cast(ops.transpose(valid), self.compute_dtype), -1)
        outputs, states = self.run(ops.transpose(x, (1, 0, 2)), tuple(states), there, training)
        outputs = ops.transpose(outputs, (1, 0, 2))
        if self.stateful:
            for carried, state in zip(self.carried, states, strict=True):
                carried.assign(ops.cast(state, carried.dtype))
        return (ops.flip(outputs, axis=1) if self.reverse else outputs), states

    def start(self, x):
        return self.cell.get_initial_state(ops.shape(x)[0])

    def run(self, x, states, there, training):
        """x [T, B, D], there [T, B, 1] or None -> outputs [T, B, P], states."""
        projected = self.cell.project(x)
        mask = self.cell.held(ops.shape(x)[1], training)

        def advance(states, t):
            before = states
            if self.truncate is not None:
                ends = (t % self.truncate == 0) & (t > 0)
                before = tuple(ops.where(ends, ops.stop_gradient(s), s) for s in states)
            after = self.cell.advance([part[t] for part in projected], before, mask)
            if there is not None:
                counts = there[t] > 0
                after = tuple(ops.where(counts, new, old) for new, old in zip(after, before, strict=True))
            return after, after

        # Numbers are scanned, not arrays: see lstm_gradient.py.
        states, sequences = ops.scan(advance, states, ops.arange(ops.shape(x)[0], dtype="int32"))
        return sequences[0], states

    def step(self, x, states):
        """One time step: x [B, D], states -> output [B, P], states."""
        return self.cell(x, states)

    def reset_states(self):
        for carried in self.carried if self.stateful else ():
            carried.assign(ops.zeros_like(carried))

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

    A plain cell is run by `recurrence`, whose gradient is written out; on a GPU by the kernel of the stock layer
    (cuDNN), unless steps are left out or the gradient is cut. Both give the numbers of the general loop.

    Args: units U; recurrent_dropout, peepholes, layer_norm, projection: of the cell; reverse, truncate, stateful: of
        `RNN`.
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
        **kwargs,
    ):
        options = recurrent_dropout, peepholes, layer_norm, projection
        cell = LSTMCell(units, *options, dtype=kwargs.get("dtype"), name="cell")
        super().__init__(cell, reverse, truncate, stateful, **kwargs)

    def build(self, x_shape):
        super().build(x_shape)
        self.fused = None
        if self.cell.plain and self.truncate is None and on_gpu():
            self.fused = keras.layers.LSTM(
                self.cell.units, return_sequences=True, return_state=True, dtype=self.dtype_policy, name="fused"
            )
            self.fused.cell = self.cell  # the same weights

    def run(self, x, states, there, training):
        if self.fused is not None and there is None:
            outputs, *states = self.fused(ops.transpose(x, (1, 0, 2)), initial_state=list(states))
            return ops.transpose(outputs, (1, 0, 2)), tuple(states)
        if not self.cell.plain or keras.backend.backend() == "torch":  # where a written gradient is of one output alone
            return super().run(x, states, there, training)
        kernel = ops.cast(self.cell.recurrent_kernel, self.compute_dtype)
        h, c = states
        hs, cs = recurrence(self.cell.project(x), kernel, h, c, there, self.truncate)
        return hs, (hs[-1], cs[-1])

    def gates(self, x, states=None):
        """-> the gates i, f, g, o and the cell c of every step, each [B, T, U] in float32: what it remembers when.

        x and states as in `call`; all steps are there, and it reads forward.
        """
        if self.reverse:
            raise ValueError("reverse is True; the gates can be read of an LSTM that reads forward.")
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
        names = ("units", "recurrent_dropout", "peepholes", "layer_norm", "projection")
        return config | {name: getattr(self.cell, name) for name in names}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def told(rnn):
    """What a wrong argument is, for an error."""
    options = [name for name in ("reverse", "stateful") if getattr(rnn, name, False)]
    return " ".join([type(rnn).__name__, *options])


def on_gpu():
    """Whether this process computes on a GPU."""
    if keras.backend.backend() == "torch":
        return ops.zeros(1).device.type == "cuda"
    return any(name.startswith("gpu") for name in keras.distribution.list_devices())


@register
class Bidirectional(RecurrentLayer):
    """One RNN from the first step to the last and one back, side by side (Schuster & Paliwal 1997).

    Args: rnn: an `RNN` that reads forward; the other is made like it, with weights of its own.
    Call: x [B, T, D]; states: those of both (zeros when None); valid, mask, x_mask bool [B, T]: see `RNN`.
    Returns: outputs of both, one behind the other [B, T, 2P]; their last states.
    """

    def __init__(self, rnn, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(rnn, RNN) or rnn.reverse or rnn.stateful:
            raise ValueError(f"rnn is {told(rnn)}; it must be an RNN that reads forward and is not stateful.")
        self.rnn = rnn
        self.backward = type(rnn).from_config(rnn.get_config() | {"reverse": True, "name": f"{rnn.name}_backward"})

    def build(self, x_shape):
        for rnn in (self.rnn, self.backward):
            if not rnn.built:  # one that comes from a file is built
                rnn.build(x_shape)

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        states = (None, None) if states is None else states
        given = {"valid": valid, "x_mask": all_valid(mask, x_mask), "training": training}
        forward, forward_states = self.rnn(x, states=states[0], **given)
        backward, backward_states = self.backward(x, states=states[1], **given)
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
    """RNNs one above another: each reads the outputs of the one below (Graves 2013, section 2).

    Args:
        rnns: from the lowest to the highest, each an `RNN` or `Bidirectional`.
        dropout: share of each one's output that training sets to zero, the highest one's too; never from step to step
            (Zaremba et al. 2014).
    Call: x [B, T, D]; states: those of each RNN (zeros when None); valid, mask, x_mask bool [B, T]: see `RNN`.
    Returns: outputs of the highest [B, T, P]; the last states of each.
    """

    def __init__(self, rnns, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if not rnns or not all(isinstance(rnn, RNN | Bidirectional) for rnn in rnns):
            raise ValueError(
                f"rnns is {[told(rnn) for rnn in rnns]}; it must be one RNN, LSTM or Bidirectional or more."
            )
        check_shares(dropout=dropout)
        self.rnns, self.dropout = list(rnns), dropout
        self.drops = [
            keras.layers.Dropout(dropout, dtype=self.dtype_policy, name=f"drop_{n}") for n in range(len(rnns))
        ]

    def build(self, x_shape):
        for rnn in self.rnns:
            if not rnn.built:  # one that comes from a file is built
                rnn.build(x_shape)
            x_shape, _ = rnn.compute_output_shape(x_shape)

    def call(self, x, states=None, valid=None, training=None, mask=None, x_mask=None):
        states, after = [None] * len(self.rnns) if states is None else states, []
        x_mask = all_valid(mask, x_mask)
        for rnn, drop, state in zip(self.rnns, self.drops, states, strict=True):
            x, state = rnn(x, states=state, valid=valid, training=training, x_mask=x_mask)
            x = drop(x, training=training)
            after.append(state)
        return x, after

    def step(self, x, states):
        """One time step, of RNNs that read forward: x [B, D], states -> output [B, P], states."""
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
        """-> states before the first step, of RNNs that read forward."""
        return [rnn.cell.get_initial_state(batch) for rnn in self.rnns]

    def compute_output_shape(self, x_shape):
        after = []
        for rnn in self.rnns:
            x_shape, states = rnn.compute_output_shape(x_shape)
            after.append(states)
        return x_shape, after

    def get_config(self):
        rnns = [keras.saving.serialize_keras_object(rnn) for rnn in self.rnns]
        return super().get_config() | {"rnns": rnns, "dropout": self.dropout}

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"rnns": [keras.saving.deserialize_keras_object(rnn) for rnn in config["rnns"]]}))
