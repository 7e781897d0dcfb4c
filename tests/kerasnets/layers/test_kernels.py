"""Kernels: the fast functions and their explicit gradients equal the plain definitions."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import normal, probe

from kerasnets.layers import LSTM, LSTMCell
from kerasnets.layers.kernels import attention as attention_kernel
from kerasnets.layers.kernels import lstm as lstm_kernel
from kerasnets.layers.kernels.affine import affine, plain_affine
from kerasnets.layers.kernels.attention import (
    attention,
    attention_weights,
    causal_bias,
    mask_bias,
    plain_attention,
    repeat_heads,
)
from kerasnets.layers.kernels.layer_norm import layer_norm, plain_layer_norm
from kerasnets.layers.kernels.lstm import block_weights, lstm, plain_lstm, run_lstm

TOLERANCES = {"float32": 2e-5, "float64": 1e-12, "float16": 6e-3, "bfloat16": 5e-2}


def check_equal(fast, plain, arrays, dtype="float32"):
    """Compare values and gradients of `fast` in this dtype with those of `plain` in float32 at least.

    `plain` gets the arrays after rounding to the dtype. The tolerance is relative to the largest number of each array.
    """
    rounded = [tf.cast(x, dtype) for x in arrays]
    exact = [tf.cast(x, dtype if dtype == "float64" else "float32") for x in rounded]
    ours, theirs = results(fast, rounded), results(plain, exact)
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape and x.dtype == dtype
        x, y = np.asarray(tf.cast(x, "float64")), np.asarray(tf.cast(y, "float64"))
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCES[dtype] * max(1.0, np.abs(y).max(initial=0)))


def results(function, arrays):
    """-> the outputs of a function and its gradients, as one graph."""

    @tf.function
    def run(arrays):
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            outputs = tf.nest.flatten(function(*arrays))
            total = probe(outputs)
        gradients = tape.gradient(total, arrays)
        return [*outputs, *(tf.cast(g, x.dtype) for g, x in zip(gradients, arrays, strict=True))]

    return run(arrays)


# Attention.


def attention_arrays(length, sources=None, heads=2, groups=None, width=4):
    sources, groups = sources or length, groups or heads
    return (
        normal(2, heads, length, width),
        normal(2, groups, sources, width, seed=1),
        normal(2, groups, sources, width, seed=2),
    )


def check_attention(arrays, bias=None, causal=False, dtype="float32"):
    heads, length, sources = arrays[0].shape[1], arrays[0].shape[2], arrays[1].shape[2]
    positions = np.arange(sources)
    visible = positions[:length, None] >= positions if causal else np.ones((length, sources), bool)
    total = np.where(visible, 0, -1e9) + (0 if bias is None else bias)

    def plain(queries, keys, values):
        keys, values = (tf.repeat(x, heads // x.shape[1], axis=1) for x in (keys, values))
        return plain_attention(queries, keys, values, tf.cast(total, queries.dtype))

    def fast(queries, keys, values):
        return attention(queries, keys, values, None if bias is None else tf.constant(bias, tf.float32), causal)

    check_equal(fast, plain, arrays, dtype)


BIASES = {
    "none": lambda t, s: None,
    "padding": lambda t, s: mask_bias(np.arange(s) < np.array([s, (s + 1) // 2])[:, None, None]),
    "mask": lambda t, s: mask_bias((normal(2, t, s) > 0) | (np.arange(s) == 0)),
    "numbers": lambda t, s: normal(1, 1, t, s),
}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("length", "sources"), [(1, 13), (8, 5), (9, 31), (127, 129)])
def test_attention_equals_its_definition(length, sources, bias):
    """Below and above MAX_UNFUSED queries."""
    bias = BIASES[bias](length, sources)
    check_attention(attention_arrays(length, sources), None if bias is None else np.asarray(bias))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("length", [1, 127, 129, 300])
def test_causal_attention_equals_its_definition(length, bias):
    """Below and above BLOCK queries, and with an incomplete last block."""
    bias = BIASES[bias](length, length)
    check_attention(attention_arrays(length), None if bias is None else np.asarray(bias), causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 129])
def test_grouped_attention_equals_its_definition(length, groups, causal):
    check_attention(attention_arrays(length, heads=6, groups=groups), causal=causal)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(("length", "causal"), [(1, False), (31, False), (129, True)])
def test_attention_of_every_dtype_equals_its_definition(length, causal, dtype):
    bias = np.asarray(BIASES["padding"](length, length))
    check_attention(attention_arrays(length, groups=1), bias, causal, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("length", [1, 9, 129])
@pytest.mark.parametrize("causal", [False, True])
def test_fully_masked_queries_have_finite_outputs_and_gradients(causal, length, dtype):
    """The other sequence of the batch has the outputs that it has alone."""
    arrays = [tf.cast(x, dtype) for x in attention_arrays(length)]
    bias = mask_bias(np.array([False, True])[:, None, None] & np.ones((2, 1, length), bool))
    batch = results(lambda *x: attention(*x, bias, causal), arrays)
    alone = results(lambda *x: attention(*x, None, causal), [x[1:] for x in arrays])
    for x, y in zip(batch[:1], alone[:1], strict=True):
        assert np.isfinite(np.asarray(x, np.float32)).all()
        np.testing.assert_allclose(np.asarray(x[1:], np.float32), np.asarray(y, np.float32), atol=TOLERANCES[dtype])
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in batch[1:])


@pytest.mark.parametrize("maximum", [0, 8])
def test_attention_of_unknown_sizes_equals_its_definition(maximum, monkeypatch):
    monkeypatch.setattr(attention_kernel, "MAX_UNFUSED", maximum)
    graph = tf.function(lambda *x: attention(*x, causal=True))
    unknown = graph.get_concrete_function(*[tf.TensorSpec((None, 2, None, 4))] * 3)
    for length in (1, 5, 130):
        arrays = [tf.constant(x) for x in attention_arrays(length)]
        expected = plain_attention(*arrays, causal_bias(*arrays[:2]))
        np.testing.assert_allclose(unknown(*arrays), expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_reproduce_the_output(causal):
    """Dropout gets the same weights."""
    arrays, dropped = [tf.constant(x) for x in attention_arrays(9, heads=4, groups=2)], []
    bias = mask_bias((normal(2, 9, 9) > 0) | np.eye(9, dtype=bool))
    outputs = attention(*arrays, bias, causal, drop=lambda weights: dropped.append(weights) or weights)
    weights = attention_weights(*arrays[:2], bias, causal)
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), np.ones((2, 4, 9)), atol=1e-6)
    np.testing.assert_allclose(dropped[0], weights, atol=1e-6)
    np.testing.assert_allclose(outputs, weights @ repeat_heads(arrays[2], 4), atol=1e-6)
    np.testing.assert_allclose(outputs, attention(*arrays, bias, causal), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 9, 129])
def test_attention_with_dropped_weights_equals_its_definition(length, causal, dtype):
    keep = np.float32(normal(2, 2, length, length, seed=9) > 0) * 2

    def plain(queries, keys, values):
        bias = causal_bias(queries, keys) if causal else 0.0
        weights = tf.nn.softmax(queries @ tf.linalg.matrix_transpose(keys) + bias)
        return (weights * keep) @ values

    def fast(*arrays):
        return attention(*arrays, causal=causal, drop=lambda weights: weights * tf.cast(keep, weights.dtype))

    check_equal(fast, plain, attention_arrays(length), dtype)


# LSTM.


def lstm_arrays(length, batch=3, units=5):
    gates = [normal(length, batch, units, seed=n) for n in range(4)]
    return [*gates, normal(units, 4 * units, scale=0.5), normal(batch, units, seed=4), normal(batch, units, seed=5)]


def loop(function, valid=None, truncate=None):
    def run(z_i, z_f, z_g, z_o, kernel, h, c):
        mask = None if valid is None else tf.cast(valid, h.dtype)
        return function((z_i, z_f, z_g, z_o), kernel, (h, c), mask, truncate)

    return run


VALID = {
    "all": lambda t: None,
    "padding": lambda t: np.arange(t)[:, None, None] < np.array([t, (t + 1) // 2, 0])[:, None],
    "holes": lambda t: normal(t, 3, 1) > 0,
}


@pytest.mark.parametrize("truncate", [None, 3])
@pytest.mark.parametrize("valid", VALID)
@pytest.mark.parametrize("length", [1, 7])
def test_lstm_equals_its_definition(length, valid, truncate):
    valid = VALID[valid](length)
    check_equal(loop(lstm, valid, truncate), loop(plain_lstm, valid, truncate), lstm_arrays(length))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_lstm_of_every_dtype_equals_its_definition(dtype):
    valid = VALID["padding"](6)
    check_equal(loop(lstm, valid), loop(plain_lstm, valid), lstm_arrays(6), dtype)


@pytest.mark.parametrize("valid", VALID)
def test_run_lstm_equals_the_definition(valid):
    cell, x = LSTMCell(5), normal(6, 3, 4)
    cell.build((3, 4))
    states, valid = (normal(3, 5), normal(3, 5, seed=1)), VALID[valid](6)
    valid = None if valid is None else tf.cast(valid, tf.float32)
    hs, (h, c) = run_lstm(cell, tf.constant(x), states, valid)
    expected, cells = plain_lstm(cell.project(tf.constant(x)), cell.recurrent_kernel, states, valid)
    for ours, theirs in [(hs, expected), (h, expected[-1]), (c, cells[-1])]:
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_stock_lstm_for_gpus_shares_the_weights_and_gives_equal_outputs(monkeypatch):
    monkeypatch.setattr(lstm_kernel, "on_gpu", lambda: True)
    layer, x = LSTM(5, reverse=True), tf.constant(normal(3, 6, 4))
    layer.build((None, None, 4))
    assert layer.stock is not None and LSTM(5, peepholes=True)(x) and len(layer.weights) == 3
    states = normal(3, 5), normal(3, 5, seed=1)
    stock, layer.stock = layer(x, states), None
    for ours, theirs in zip(tf.nest.flatten(layer(x, states)), tf.nest.flatten(stock), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_block_weights_give_a_step_of_the_definition():
    kernel, recurrent_kernel, bias = (tf.constant(x) for x in (normal(4, 20), normal(5, 20, seed=1), normal(20)))
    x, h, c = (tf.constant(a) for a in (normal(3, 4), normal(3, 5), normal(3, 5, seed=1)))
    projected = tf.split(x @ kernel + bias, 4, axis=-1)
    hs, cs = plain_lstm([z[tf.newaxis] for z in projected], recurrent_kernel, (h, c))
    w, b = block_weights(kernel, recurrent_kernel, bias)
    none = tf.zeros(5)
    step = tf.raw_ops.LSTMBlockCell(
        x=x, h_prev=h, cs_prev=c, w=w, b=b, wci=none, wcf=none, wco=none, forget_bias=0.0, cell_clip=0.0
    )
    np.testing.assert_allclose(step.h, hs[0], atol=1e-5)
    np.testing.assert_allclose(step.cs, cs[0], atol=1e-5)


# Affine map and layer normalization.

SHAPES = [(1, 6), (127, 6), (3, 1, 6), (2, 129, 6), (2, 3, 5, 6)]
HALVES = [((2, 129, 6), dtype) for dtype in ("float16", "bfloat16", "float64")]


@pytest.mark.parametrize(("shape", "dtype"), [*itertools.product(SHAPES, ["float32"]), *HALVES])
def test_affine_equals_its_definition(shape, dtype):
    check_equal(affine, plain_affine, [normal(*shape), normal(6, 4), normal(4)], dtype)


@pytest.mark.parametrize(("shape", "dtype"), [*itertools.product(SHAPES, ["float32"]), *HALVES])
def test_layer_norm_equals_its_definition(shape, dtype):
    check_equal(layer_norm, plain_layer_norm, [normal(*shape, scale=3.0) + 1, normal(6) + 1, normal(6, seed=1)], dtype)


def test_layer_norm_of_equal_numbers_is_finite():
    x, gamma, beta = tf.ones((2, 6)), tf.ones(6), tf.constant(normal(6))
    values, *gradients = results(layer_norm, [x, gamma, beta])
    np.testing.assert_allclose(values, np.tile(beta, (2, 1)), atol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)
