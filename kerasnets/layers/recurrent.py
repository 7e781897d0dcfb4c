"""Recurrence: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.   U units, T time steps."""

import keras
from keras import ops

register = keras.saving.register_keras_serializable("kerasnets")


@register
class LSTMCell(keras.layers.Layer):
    """One step of a long short-term memory.

        i, f, o = σ(W x_t + U h_{t-1} + b)        input, forget and output gate
        g       = tanh(W x_t + U h_{t-1} + b)     candidate
        c_t     = f ⊙ c_{t-1} + i ⊙ g             memory cell
        h_t     = o ⊙ tanh(c_t)                   output

    The four products with W are one matrix product, and so are those with U; gates lie in the order i, f, g, o,
    as in `keras.layers.LSTM`, whose weights fit. The forget gate's bias starts at 1, so that a fresh cell
    remembers (Jozefowicz et al. 2015). W starts Glorot-uniform, U orthogonal, as in Keras.

    Args: units U.
    Call: x [B, D]; states: h and c, each [B, U].
    Returns: h [B, U], (h, c).
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units is {units}; it must be 1 or more.")
        self.units = units
        self.state_size = (units, units)
        self.output_size = units

    def build(self, x_shape):
        self.kernel = self.add_weight((x_shape[-1], 4 * self.units), "glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight((self.units, 4 * self.units), "orthogonal", name="recurrent_kernel")
        self.bias = self.add_weight((4 * self.units,), self.initial_bias, name="bias")

    def initial_bias(self, shape, dtype=None):
        zeros, ones = ops.zeros((self.units,), dtype), ops.ones((self.units,), dtype)
        return ops.concatenate([zeros, ones, zeros, zeros])

    def project(self, x):
        """x [..., D] -> W x + b, [..., 4U]: the part that does not wait for the step before."""
        return ops.matmul(x, self.kernel) + self.bias

    @staticmethod
    def advance(gates, c):
        """gates, what goes into σ and tanh, [B, 4U]; c [B, U] -> h, c one step later, each [B, U]."""
        i, f, g, o = ops.split(gates, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        return ops.sigmoid(o) * ops.tanh(c), c

    def call(self, x, states):
        h, c = states
        h, c = self.advance(self.project(x) + ops.matmul(h, self.recurrent_kernel), c)
        return h, (h, c)

    def get_initial_state(self, batch_size=None):
        return tuple(ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in range(2))

    def compute_output_shape(self, x_shape, states_shape=None):
        state = (x_shape[0], self.units)
        return state, (state, state)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@register
class LSTM(keras.layers.Layer):
    """Runs an `LSTMCell` over time.

    The products with W need no earlier step, so that one matrix product does them for all steps. The gradient is
    written out in `recur`, which turns the T small products for U's gradient into one as well.

    Args: units U.
    Call: x [B, T, D]; states: h and c, each [B, U] (zeros when None);
        valid bool [B, T], True = there; at a False step the states stay as they are.
    Returns: h of every step [B, T, U], and the last states (h, c), each [B, U].
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.cell = LSTMCell(units, dtype=self.dtype_policy, name="cell")

    def build(self, x_shape):
        self.cell.build((x_shape[0], x_shape[2]))

    def call(self, x, states=None, valid=None):
        h, c = self.cell.get_initial_state(ops.shape(x)[0]) if states is None else states
        projected = self.cell.project(ops.transpose(x, (1, 0, 2)))  # [T, B, 4U]
        kernel = ops.cast(self.cell.recurrent_kernel, projected.dtype)
        if valid is None:
            hs, cs = recur(projected, kernel, h, c)
        else:
            there = ops.expand_dims(ops.cast(ops.transpose(valid), projected.dtype), -1)  # [T, B, 1]
            hs, cs = recur(projected, kernel, h, c, there)
        return ops.transpose(hs, (1, 0, 2)), (hs[-1], cs[-1])

    def step(self, x, states):
        """One time step: x [B, D], states (h, c) -> h [B, U], (h, c)."""
        return self.cell(x, states)

    def compute_output_shape(self, x_shape):
        state = (x_shape[0], self.units)
        return (*x_shape[:2], self.units), (state, state)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@ops.custom_gradient
def recur(projected, kernel, h, c, *there):
    """The recurrence of an LSTM with its gradient written out (back-propagation through time).

    With z = W x_t + U h_{t-1} + b, the four gates' derivatives need nothing but z and c, so they are computed for
    all steps at once; the backward loop then holds one product, dh_{t-1} = Uᵀ dz_t:

        dc_t += dh_t ⊙ o ⊙ (1 - tanh² c_t)
        dz_t  = [dc_t ⊙ g ⊙ i(1-i),  dc_t ⊙ c_{t-1} ⊙ f(1-f),  dc_t ⊙ i ⊙ (1-g²),  dh_t ⊙ tanh c_t ⊙ o(1-o)]
        dc_{t-1} = dc_t ⊙ f

    Args: projected W x + b [T, B, 4U]; kernel U [U, 4U]; h and c before the first step, each [B, U];
        there, if given, [T, B, 1]: 1 = the step counts, 0 = the states stay.
    Returns: h and c after every step, each [T, B, U].
    """
    units = h.shape[-1]
    first = h, c

    # `ops.scan` on TensorFlow wants what a step carries and what it emits to be alike, hence the gates in both,
    # and one input array where the number of steps is unknown.
    def advance(carry, inputs):
        h, c, _ = carry
        gates = inputs[:, : 4 * units] + ops.matmul(h, kernel)
        new_h, new_c = LSTMCell.advance(gates, c)
        if there:
            counts = inputs[:, 4 * units :] > 0
            new_h, new_c = ops.where(counts, new_h, h), ops.where(counts, new_c, c)
        return (new_h, new_c, gates), (new_h, new_c, gates)

    no_gates = ops.zeros_like(projected[0])
    _, (hs, cs, gates) = ops.scan(advance, (h, c, no_gates), ops.concatenate([projected, *there], axis=-1))

    def gradient(*upstream):
        dhs, dcs = upstream if len(upstream) == 2 else upstream[0]
        previous_h, previous_c = (
            ops.concatenate([ops.expand_dims(x, 0), xs[:-1]], axis=0) for x, xs in zip(first, (hs, cs), strict=True)
        )
        gate_slopes, c_slope, f = slopes(gates, previous_c)
        if there:
            stays = 1 - there[0]
            gate_slopes, c_slope, f = gate_slopes * there[0], c_slope * there[0], stays + f * there[0]

        def retreat(carry, inputs):
            dh, dc, _ = carry
            gate_slope, c_slope, f, upstream_h, upstream_c, *stays = ops.split(inputs, widths, axis=-1)
            dh, dc = dh + upstream_h, dc + upstream_c
            dc_inside = dc + dh * c_slope
            dz = ops.concatenate([dc_inside, dc_inside, dc_inside, dh], axis=-1) * gate_slope
            new_dh = ops.matmul(dz, transposed_kernel)
            if there:
                new_dh = new_dh + dh * stays[0]
            return (new_dh, dc_inside * f, dz), (new_dh, dc_inside * f, dz)

        transposed_kernel = ops.transpose(kernel)
        widths = [n * units for n in ((4, 5, 6, 7, 8) if there else (4, 5, 6, 7))]
        inputs = [gate_slopes, c_slope, f, dhs, dcs, *([stays] if there else [])]
        end = ops.zeros_like(first[0]), ops.zeros_like(first[1]), no_gates
        (dh, dc, _), (_, _, dz) = ops.scan(retreat, end, ops.concatenate(inputs, axis=-1), reverse=True)
        rows_h, rows_dz = ops.reshape(previous_h, (-1, units)), ops.reshape(dz, (-1, 4 * units))
        return dz, ops.matmul(ops.transpose(rows_h), rows_dz), dh, dc, *(ops.zeros_like(x) for x in there)

    return (hs, cs), gradient


def slopes(gates, previous_c):
    """What the backward loop multiplies with, for all steps at once.

    Args: gates [T, B, 4U]; previous_c [T, B, U].
    Returns: dz / (dc, dc, dc, dh) [T, B, 4U]; dc / dh [T, B, U]; f [T, B, U].
    """
    i, f, g, o = ops.split(gates, 4, axis=-1)
    i, f, o, g = ops.sigmoid(i), ops.sigmoid(f), ops.sigmoid(o), ops.tanh(g)
    tanh_c = ops.tanh(f * previous_c + i * g)
    gate_slopes = [g * i * (1 - i), previous_c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)]
    return ops.concatenate(gate_slopes, axis=-1), o * (1 - tanh_c * tanh_c), f
