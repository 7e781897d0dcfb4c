"""The recurrence of a plain LSTM with its gradient written out (back-propagation through time).

Automatic differentiation would do the same sums in more and smaller pieces: written out, U's gradient is one product
for all steps and gate instead of one a step, and what the loop carries back is what the equations need.
"""

from keras import ops


def recurrence(projected, kernel, h, c, there=None, truncate=None):
    """The loop of an LSTM over all steps.

    Args: projected: W x + b of i, f, g, o, each [T, B, U]; kernel U [U, 4U]; h and c before the first step [B, U];
        there [T, B, 1], 1 = the step counts, 0 = the states stay; truncate: see `RNN`.
    Returns: h and c after every step, each [T, B, U].
    """
    extra = [] if there is None else [there]
    return differentiable(truncate)(*projected, kernel, h, c, *extra)


def differentiable(truncate):
    """-> the loop as a function of arrays alone, with its gradient.

    Backward it carries what the equations of `step_gradient` give, and dh_{t-1} = Σ dz Uᵀ over the gates.
    """

    @ops.custom_gradient
    def run(z_i, z_f, z_g, z_o, kernel, h, c, *there):
        kernels = ops.split(kernel, 4, axis=-1)
        zero = ops.zeros_like(h)
        # The loop reads its arrays by number: `ops.scan` on TensorFlow takes one array only where T is unknown, and
        # wants what a step carries and what it emits to be alike.
        steps = ops.arange(ops.shape(z_i)[0], dtype="int32")

        def advance(carry, t):
            h, c = carry[:2]
            i, f, g, o = (z[t] + ops.matmul(h, u) for z, u in zip((z_i, z_f, z_g, z_o), kernels, strict=True))
            i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
            new_c = f * c + i * g
            new_h = o * ops.tanh(new_c)
            if there:
                counts = there[0][t] > 0
                new_h, new_c = ops.where(counts, new_h, h), ops.where(counts, new_c, c)
            return (new_h, new_c, i, f, g, o), (new_h, new_c, i, f, g, o)

        _, (hs, cs, *gates) = ops.scan(advance, (h, c, zero, zero, zero, zero), steps)

        def gradient(*upstream):
            dhs, dcs = upstream if len(upstream) == 2 else upstream[0]
            before = [
                ops.concatenate([ops.expand_dims(first, 0), later[:-1]], axis=0) for first, later in ((h, hs), (c, cs))
            ]
            # Transposed once: a product with a transposed matrix is slower than one with the matrix.
            transposed = [ops.transpose(part) for part in kernels]

            def retreat(carry, t):
                dh, dc = carry[0] + dhs[t], carry[1] + dcs[t]
                dh_t, dc_t = dh, dc
                if there:
                    dh_t, dc_t = dh * there[0][t], dc * there[0][t]
                dz, new_dc = step_gradient(dh_t, dc_t, [gate[t] for gate in gates], before[1][t])
                products = [ops.matmul(x, u) for x, u in zip(dz, transposed, strict=True)]
                new_dh = (products[0] + products[1]) + (products[2] + products[3])
                if there:
                    stays = 1 - there[0][t]
                    new_dh, new_dc = new_dh + dh * stays, new_dc + dc * stays
                if truncate is not None:
                    flows = ops.cast((t % truncate != 0) | (t == 0), new_dh.dtype)
                    new_dh, new_dc = new_dh * flows, new_dc * flows
                return (new_dh, new_dc, *dz), (new_dh, new_dc, *dz)

            (dh, dc, *_), (_, _, *dzs) = ops.scan(retreat, (zero,) * 6, steps, reverse=True)
            units = h.shape[-1]
            rows = ops.transpose(ops.reshape(before[0], (-1, units)))
            d_kernel = ops.concatenate([ops.matmul(rows, ops.reshape(dz, (-1, units))) for dz in dzs], axis=-1)
            return *dzs, d_kernel, dh, dc, *(ops.zeros_like(x) for x in there)

        return (hs, cs), gradient

    return run


def step_gradient(dh, dc, gates, before):
    """One step back. With z = W x_t + U h_{t-1} + b before its σ or tanh, and d for the derivative of the loss:

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
