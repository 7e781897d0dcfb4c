"""Recurrent cells: one time step.   U units, P width of the output, T time steps.

A cell is a Keras layer that `RNN` (rnn.py) or `keras.layers.RNN` runs over time. Its states are a tuple; the first is
the output. A step has two halves:

    project(x)                  the products with x, which do not need the previous step: all steps at once
    advance(projected, states)  the rest of the step -> states

In training, `advance` also takes `dropout_mask` and `dropped_kernel`, which are drawn once for all steps of a call.
"""

import keras
from keras import ops

from kerasnets.checks import check_counts, check_fractions
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


class Cell(MaskedLayer):
    """Base class of the cells: units, two kinds of dropout, and a step composed of its two halves.

    Recurrent dropout zeroes a share of the outputs that enter the next step, the same ones at every step of a
    sequence (Gal & Ghahramani 2016, section 3): a mask that changed at each step would erase the memory.
    Recurrent weight dropout zeroes a share of the recurrent kernel U, the same weights at every step and for all
    sequences of a batch: DropConnect, the "weight-dropped LSTM" (Merity et al. 2018, section 2: AWD-LSTM). It needs no
    work inside the loop over time.
    """

    def __init__(self, units, recurrent_dropout=0.0, recurrent_weight_dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_counts(units=units)
        check_fractions(recurrent_dropout=recurrent_dropout, recurrent_weight_dropout=recurrent_weight_dropout)
        self.units, self.recurrent_dropout = units, recurrent_dropout
        self.recurrent_weight_dropout = recurrent_weight_dropout
        self.output_size: int = units
        self.state_size: tuple[int, ...] = (units,)
        self.drop = keras.layers.Dropout(recurrent_dropout, dtype=self.dtype_policy, name="drop")
        self.drop_weights = keras.layers.Dropout(recurrent_weight_dropout, dtype=self.dtype_policy, name="drop_weights")

    def call(self, x, states, training=None, x_mask=None):
        """Run one step. In training it draws new masks for both dropouts; `RNN` uses one per sequence.

        x_mask bool [B] is Keras's mask (see masking.py): the states of padding rows do not change.
        """
        mask, kernel = self.dropout_mask(ops.shape(x)[0], training), self.dropped_kernel(training)
        after = self.advance(self.project(x), states, mask, kernel)
        if x_mask is not None:
            after = tuple(ops.where(ops.expand_dims(x_mask, 1), *pair) for pair in zip(after, states, strict=True))
        return after[0], after

    def dropout_mask(self, batch, training=None):
        """-> the mask of the recurrent dropout [B, P], for a whole sequence; or None."""
        if not (training and self.recurrent_dropout):
            return None
        return self.drop(ops.ones((batch, self.output_size), dtype=self.compute_dtype), training=True)

    def dropped_kernel(self, training=None):
        """-> the recurrent kernel with a share of its weights zero, for a whole sequence; or None."""
        if not (training and self.recurrent_weight_dropout):
            return None
        return self.drop_weights(ops.convert_to_tensor(self.recurrent_kernel), training=True)

    def get_initial_state(self, batch_size=None):
        return tuple(ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size)

    def compute_output_shape(self, x_shape, states_shape=None):
        states = tuple((x_shape[0], size) for size in self.state_size)
        return states[0], states

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "recurrent_dropout": self.recurrent_dropout,
            "recurrent_weight_dropout": self.recurrent_weight_dropout,
        }


@register
class SimpleRNNCell(Cell):
    """One step of the simplest recurrent network (Elman 1990): the same weights at every step.

        h_t = tanh(W x_t + U h_{t-1} + b)

    W starts Glorot-uniform, U orthogonal, b zero, as in `keras.layers.SimpleRNNCell`, whose weights can be loaded.

    Args: units U; recurrent_dropout, a share of h; recurrent_weight_dropout, a share of U (see `Cell`).
    Call: x [B, D]; states: (h,), [B, U].
    Returns: h [B, U], (h,).
    """

    def build(self, x_shape):
        self.kernel = self.add_weight((x_shape[-1], self.units), "glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight((self.units, self.units), "orthogonal", name="recurrent_kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def project(self, x):
        return [ops.matmul(x, self.kernel) + self.bias]

    def advance(self, projected, states, mask=None, kernel=None):
        (h,) = states
        h = h if mask is None else h * mask
        kernel = self.recurrent_kernel if kernel is None else kernel
        return (ops.tanh(projected[0] + ops.matmul(h, ops.cast(kernel, h.dtype))),)


@register
class LSTMCell(Cell):
    """One step of a long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

        i, f, o = σ(W x_t + U h_{t-1} + b)        input, forget and output gate
        g       = tanh(W x_t + U h_{t-1} + b)     candidate
        c_t     = f ⊙ c_{t-1} + i ⊙ g             memory cell
        h_t     = o ⊙ tanh(c_t)                   output

    The kernels have the gates in the order i, f, g, o, as in `keras.layers.LSTM`, whose weights can be loaded. The
    forget gate's bias starts at 1, so that an untrained cell remembers (Jozefowicz et al. 2015). W starts
    Glorot-uniform, U orthogonal, as in Keras; peepholes start at zero, where they have no effect.

    Args:
        units U.
        recurrent_dropout: a share of h; recurrent_weight_dropout: a share of U (see `Cell`).
        peepholes: the gates see the cell (Gers & Schmidhuber 2000): i and f also sum p ⊙ c_{t-1}, and o sums p ⊙ c_t.
        layer_norm: W x_t, U h_{t-1} and c_t are layer-normalized where they are used (Ba et al. 2016, eq. 20 to 22).
        projection: width P of h_t = R (o ⊙ tanh(c_t)), smaller than U (Sak et al. 2014, section 2); None: h is [B, U].
    Call: x [B, D]; states: h [B, P], c [B, U].
    Returns: h [B, P], (h, c).
    """

    # `keras.layers.LSTM` checks these attributes before it runs a cell with cuDNN.
    activation, recurrent_activation, dropout = keras.activations.tanh, keras.activations.sigmoid, 0.0

    def __init__(
        self,
        units,
        recurrent_dropout=0.0,
        peepholes=False,
        layer_norm=False,
        projection=None,
        recurrent_weight_dropout=0.0,
        **kwargs,
    ):
        super().__init__(units, recurrent_dropout, recurrent_weight_dropout, **kwargs)
        if projection is not None and projection < 1:
            raise ValueError(f"projection is {projection}; it must be 1 or more, or None for no projection.")
        self.peepholes, self.layer_norm, self.projection = peepholes, layer_norm, projection
        self.output_size = projection or units
        self.state_size = (self.output_size, units)

    @property
    def plain(self):
        """Whether the cell has only the four equations, so that a loop specialized for them can run it. Recurrent
        weight dropout changes none of them."""
        return not (self.recurrent_dropout or self.peepholes or self.layer_norm or self.projection)

    def build(self, x_shape):
        units = self.units
        self.kernel = self.add_weight((x_shape[-1], 4 * units), "glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight((self.output_size, 4 * units), "orthogonal", name="recurrent_kernel")
        self.bias = self.add_weight((4 * units,), self.initial_bias, name="bias")
        if self.peepholes:
            self.peephole = self.add_weight((3, units), "zeros", name="peephole")  # of i, f, o
        self.norms = {}
        if self.layer_norm:
            # The sums have a bias, so their normalization needs no shift.
            for name, center, width in [
                ("input", False, 4 * units),
                ("recurrent", False, 4 * units),
                ("cell", True, units),
            ]:
                norm = keras.layers.LayerNormalization(
                    epsilon=1e-6, center=center, dtype=self.dtype_policy, name=f"{name}_norm"
                )
                norm.build((None, width))
                self.norms[name] = norm
        if self.projection:
            self.projection_kernel = self.add_weight(
                (units, self.projection), "glorot_uniform", name="projection_kernel"
            )

    def initial_bias(self, shape, dtype=None):
        zeros, ones = ops.zeros((self.units,), dtype), ops.ones((self.units,), dtype)
        return ops.concatenate([zeros, ones, zeros, zeros])

    def project(self, x):
        """x [..., D] -> W x + b of i, f, g, o, each [..., U]."""
        biases = ops.split(ops.cast(self.bias, x.dtype), 4)
        return [total + bias for total, bias in zip(self.gate_products(x, self.kernel, "input"), biases, strict=True)]

    def gate_products(self, x, kernel, norm):
        """x [..., n], kernel [n, 4U] -> the product for each gate [..., U]."""
        kernel = ops.cast(kernel, x.dtype)
        if self.layer_norm:
            return ops.split(ops.cast(self.norms[norm](ops.matmul(x, kernel)), x.dtype), 4, axis=-1)
        # Four products, not one: they run in parallel, and the result needs no split.
        return [ops.matmul(x, part) for part in ops.split(kernel, 4, axis=-1)]

    def gates(self, projected, states, mask=None, kernel=None):
        """projected and the previous states -> i, f, g, o and the new cell c, each [..., U]."""
        h, c = states
        h = h if mask is None else h * mask
        recurrent = self.gate_products(h, self.recurrent_kernel if kernel is None else kernel, "recurrent")
        i, f, g, o = (x + y for x, y in zip(projected, recurrent, strict=True))
        if self.peepholes:
            i, f = i + self.peephole[0] * c, f + self.peephole[1] * c
        i, f, g = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g)
        c = f * c + i * g
        o = ops.sigmoid(o + self.peephole[2] * c) if self.peepholes else ops.sigmoid(o)
        return i, f, g, o, c

    def advance(self, projected, states, mask=None, kernel=None):
        """-> h [B, P], c [B, U] one step later."""
        *_, o, c = self.gates(projected, states, mask, kernel)
        return self.read_out(o, c), c

    def read_out(self, o, c):
        """-> h [B, P]."""
        h = o * ops.tanh(ops.cast(self.norms["cell"](c), c.dtype) if self.layer_norm else c)
        return ops.matmul(h, ops.cast(self.projection_kernel, h.dtype)) if self.projection else h

    def get_config(self):
        return super().get_config() | {
            "peepholes": self.peepholes,
            "layer_norm": self.layer_norm,
            "projection": self.projection,
        }
