"""The recurrence of a plain LSTM: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000.

T time steps, B batch, D width of the input, U units
"""

import keras
from keras import ops


def plain_lstm(projected, kernel, states, valid=None, truncate=None):
    """The loop of an LSTM over all steps, after z = W x_t + b of each gate has been computed:

        i_t = σ(z_i + U_i h_{t-1})        f_t = σ(z_f + U_f h_{t-1})
        g_t = tanh(z_g + U_g h_{t-1})     o_t = σ(z_o + U_o h_{t-1})
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t   h_t = o_t ⊙ tanh(c_t)

    Args:
        projected: z of i, f, g, o, each [T, B, U], T known; kernel: U_i, U_f, U_g, U_o concatenated [U, 4U].
        states: h and c before the first step, each [B, U].
        valid [T, B, 1]: 1, or 0 at padding, where the states do not change; None: all steps are valid.
        truncate: steps of a chunk within which gradients flow back; None: no truncation.
    Returns: h and c after every step, each [T, B, U].
    """
    (h, c), hs, cs = states, [], []
    u_i, u_f, u_g, u_o = ops.split(kernel, 4, axis=-1)
    for t, (z_i, z_f, z_g, z_o) in enumerate(zip(*map(ops.unstack, projected), strict=True)):
        if truncate is not None and t % truncate == 0 and t > 0:
            h, c = ops.stop_gradient(h), ops.stop_gradient(c)
        i = ops.sigmoid(z_i + ops.matmul(h, u_i))
        f = ops.sigmoid(z_f + ops.matmul(h, u_f))
        g = ops.tanh(z_g + ops.matmul(h, u_g))
        o = ops.sigmoid(z_o + ops.matmul(h, u_o))
        new_c = f * c + i * g
        new_h = o * ops.tanh(new_c)
        if valid is not None:
            new_h, new_c = ops.where(valid[t] > 0, new_h, h), ops.where(valid[t] > 0, new_c, c)
        h, c = new_h, new_c
        hs.append(h)
        cs.append(c)
    return ops.stack(hs), ops.stack(cs)


def lstm(projected, kernel, states, valid=None, truncate=None):
    """`plain_lstm` as one loop of the backend, with an explicit gradient; T may be unknown."""
    if keras.backend.backend() == "torch":  # custom gradients have one output only, and Python loops work
        return plain_lstm(projected, kernel, states, valid, truncate)
    return lstm_with_gradient(truncate)(*projected, kernel, *states, *([] if valid is None else [valid]))


def run_lstm(cell, x, states, valid=None, truncate=None, stock=None, kernel=None):
    """Run a plain `LSTMCell` over time by the fastest method.

    Args: x [T, B, D]; stock: from `stock_lstm`; kernel: a recurrent kernel in place of the cell's (`dropped_kernel`),
        which `stock` cannot use; None: the cell's; the others as in `plain_lstm`.
    Returns: h of every step [T, B, U]; the last states (h, c).
    """
    if stock is not None and valid is None and truncate is None and kernel is None:
        outputs, *states = stock(ops.transpose(x, (1, 0, 2)), initial_state=list(states))
        return ops.transpose(outputs, (1, 0, 2)), tuple(states)
    kernel = ops.cast(cell.recurrent_kernel if kernel is None else kernel, x.dtype)
    hs, cs = lstm(cell.project(x), kernel, states, valid, truncate)
    return hs, (hs[-1], cs[-1])


def stock_lstm(cell):
    """-> on a GPU, a `keras.layers.LSTM` with the weights of a plain `LSTMCell`, for its kernel (cuDNN); else None.

    The cell replaces that of the layer: its weights have the same names and shapes.
    """
    if not on_gpu():
        return None
    stock = keras.layers.LSTM(
        cell.units, return_sequences=True, return_state=True, dtype=cell.dtype_policy, name="stock"
    )
    stock.cell = cell
    return stock


def on_gpu():
    """Whether this process computes on a GPU."""
    if keras.backend.backend() == "torch":
        return ops.zeros(1).device.type == "cuda"
    return any(name.startswith("gpu") for name in keras.distribution.list_devices())


def lstm_with_gradient(truncate):
    """-> `plain_lstm` as a function of arrays only, with an explicit gradient."""

    @ops.custom_gradient
    def run(z_i, z_f, z_g, z_o, kernel, h, c, *masks):
        valid = masks[0] if masks else None
        hs, cs, gates = forward((z_i, z_f, z_g, z_o), kernel, h, c, valid)

        def gradient(*upstream):
            dhs, dcs = upstream if len(upstream) == 2 else upstream[0]
            gradients = backward(dhs, dcs, gates, kernel, (h, hs), (c, cs), valid, truncate)
            return gradients if valid is None else (*gradients, ops.zeros_like(valid))

        return (hs, cs), gradient

    return run


def forward(projected, kernel, h, c, valid):
    """As `plain_lstm` -> h and c of every step, and its gates i, f, g, o, each [T, B, U]."""
    kernels, zero = ops.split(kernel, 4, axis=-1), ops.zeros_like(h)

    def advance(carry, t):
        h, c = carry[:2]
        i, f, g, o = (z[t] + ops.matmul(h, u) for z, u in zip(projected, kernels, strict=True))
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        new_c = f * c + i * g
        new_h = o * ops.tanh(new_c)
        if valid is not None:
            is_valid = valid[t] > 0
            new_h, new_c = ops.where(is_valid, new_h, h), ops.where(is_valid, new_c, c)
        return (new_h, new_c, i, f, g, o), (new_h, new_c, i, f, g, o)

    # The loop indexes its arrays by step: on TensorFlow, `ops.scan` takes only one array if T is unknown, and requires
    # the carry and the output of a step to have the same structure.
    steps = ops.arange(ops.shape(projected[0])[0], dtype="int32")
    _, (hs, cs, *gates) = ops.scan(advance, (h, c, zero, zero, zero, zero), steps)
    return hs, cs, gates


def backward(dhs, dcs, gates, kernel, h, c, valid, truncate):
    """Back-propagation through time, with the equations of `step_gradient` and

        dh_{t-1} = Σ dz Uᵀ over the gates        dU = Σ h_{t-1}ᵀ dz over the steps

    Automatic differentiation would do the same sums in more and smaller pieces: here dU is one product per gate for all
    steps, and the loop carries no more than the equations need.

    Args: dhs, dcs: upstream gradients for h and c of every step; gates from `forward`; h and c: pairs, before the first
        step and after every step.
    Returns: the gradients of z of the four gates, of the kernel, and of h and c before the first step.
    """
    zero, units = ops.zeros_like(h[0]), h[0].shape[-1]
    hs_before, cs_before = (ops.concatenate([ops.expand_dims(first, 0), after[:-1]], axis=0) for first, after in (h, c))
    # Transposed once: a product that transposes its matrix is slower.
    transposed = [ops.transpose(part) for part in ops.split(kernel, 4, axis=-1)]

    def step_back(carry, t):
        dh, dc = carry[0] + dhs[t], carry[1] + dcs[t]
        dh_t, dc_t = (dh, dc) if valid is None else (dh * valid[t], dc * valid[t])
        dz, new_dc = step_gradient(dh_t, dc_t, [gate[t] for gate in gates], cs_before[t])
        products = [ops.matmul(x, u) for x, u in zip(dz, transposed, strict=True)]
        new_dh = (products[0] + products[1]) + (products[2] + products[3])
        if valid is not None:
            padding = 1 - valid[t]
            new_dh, new_dc = new_dh + dh * padding, new_dc + dc * padding
        if truncate is not None:
            keep = ops.cast((t % truncate != 0) | (t == 0), new_dh.dtype)
            new_dh, new_dc = new_dh * keep, new_dc * keep
        return (new_dh, new_dc, *dz), (new_dh, new_dc, *dz)

    steps = ops.arange(ops.shape(dhs)[0], dtype="int32")
    (dh, dc, *_), (_, _, *dzs) = ops.scan(step_back, (zero,) * 6, steps, reverse=True)
    rows = ops.transpose(ops.reshape(hs_before, (-1, units)))
    d_kernel = ops.concatenate([ops.matmul(rows, ops.reshape(dz, (-1, units))) for dz in dzs], axis=-1)
    return *dzs, d_kernel, dh, dc


def step_gradient(dh, dc, gates, before):
    """The gradient of one step. With z = W x_t + U h_{t-1} + b before σ or tanh, and d the derivative of the loss:

        dc_t += dh_t ⊙ o ⊙ (1 - tanh² c_t)
        dz_i  = dc_t ⊙ g ⊙ i(1-i)           dz_f = dc_t ⊙ c_{t-1} ⊙ f(1-f)
        dz_g  = dc_t ⊙ i ⊙ (1-g²)           dz_o = dh_t ⊙ tanh c_t ⊙ o(1-o)
        dc_{t-1} = dc_t ⊙ f

    Args: dh, dc; gates i, f, g, o; before: c_{t-1}; each [B, U].
    Returns: dz of the four gates; dc_{t-1}.
    """
    i, f, g, o = gates
    tanh_c = ops.tanh(f * before + i * g)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    dz = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
    return dz, dc * f


def block_weights(kernel, recurrent_kernel, bias):
    """Return the weights in the layout of TensorFlow's `LSTMBlockCell`, whose step is one product [x, h] · [W; U].

    Args: kernel W [D, 4U], recurrent_kernel [U, 4U], bias [4U], with the gates in the order i, f, g, o.
    Returns: [D + U, 4U] and [4U], with the gates in the order i, g, f, o.
    """

    def reorder(x):
        i, f, g, o = ops.split(x, 4, axis=-1)
        return ops.concatenate([i, g, f, o], axis=-1)

    return reorder(ops.concatenate([kernel, recurrent_kernel], axis=0)), reorder(bias)
